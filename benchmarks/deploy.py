"""Time of timm's eager feature maps over that of the fused model: one thread, one image, float32 on the CPU.

    python benchmarks/deploy.py [ROUNDS [MODEL SIDE]]

Outputs are compared first. Then both models run in turn, A B A B, on the same image; the median of the ratios of the
rounds counts, and the quartiles are its spread. After each cell it writes benchmarks/deploy.json and the table in
docs/guides/deploy.md; with a model and a side it measures that cell again.
"""

import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

TARGETS = {
    "resnet34": {224: 1.4, 640: 1.65},
    "resnet50": {224: 1.35, 640: 1.3},
    "vgg16": {224: 2.5},
    "convnext_tiny": {224: 1.08, 640: 1.15},
    "efficientnet_b0": {224: 1.4, 640: 1.6},
}
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "deploy.md"
RESULT = Path(__file__).with_suffix(".json")
BEGIN, END = "<!-- table: benchmarks/deploy.py -->", "<!-- end of table -->"


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """One forward pass."""
    start = time.perf_counter()
    model(x)
    return time.perf_counter() - start


def with_statistics(model: nn.Module) -> nn.Module:
    """The model in eval mode, its batch norms with the statistics of two random images, and no branch silent."""
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # LayerScale, which starts at 1e-6
            nn.init.constant_(parameter, 0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.randn(2, 3, 224, 224))
    return model.eval()


def measured(name: str, side: int, rounds: int) -> dict:
    """One cell."""
    torch.manual_seed(0)
    eager, x = with_statistics(timm.create_model(name, features_only=True)), torch.randn(1, 3, side, side)
    fused = tbx.fuse(eager)
    error = testing.largest(fused(x), eager(x))
    if error > 1e-5:
        sys.exit(f"{name} at {side} px: maps differ by {error:.1e}, relative, so there is nothing to time")
    pairs = [(seconds(eager, x), seconds(fused, x)) for _ in range(rounds + 1)][1:]
    low, ratio, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return {
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "error": float(f"{error:.1e}"),
        "eager_ms": round(1e3 * statistics.median(a for a, _ in pairs), 1),
        "fused_ms": round(1e3 * statistics.median(b for _, b in pairs), 1),
        "times_faster": round(ratio, 2),
        "quartiles": [round(low, 2), round(high, 2)],
        "target": TARGETS[name][side],
        "no_difference": low <= 1 <= high,
    }


def processor() -> str:
    """The processor's name, and the widest vectors that torch uses on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"


def table(result: dict) -> str:
    """The cells as Markdown."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        f"{machine['processor']}, one thread of {machine['cores']}; torch {versions['torch']}, "
        f"timm {versions['timm']}; medians of interleaved rounds. Load is the number of busy processes on the machine.",
        "",
        "| model | side | eager, ms | fused, ms | times faster (quartiles) | target | difference | rounds | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, facts in result["cells"].items():
        name, side = cell.split(" ")
        low, high = facts["quartiles"]
        faster = "no difference" if facts["no_difference"] else f"{facts['times_faster']:.2f}"
        lines.append(
            f"| {name} | {side} | {facts['eager_ms']} | {facts['fused_ms']} | {faster} ({low:.2f}-{high:.2f}) | "
            f"{facts['target']} | {facts['error']:.0e} | {facts['rounds']} | {facts['load']} |"
        )
    return "\n".join(lines)


def write(cells: dict) -> None:
    """Put cells into the JSON and the page; those measured before stay."""
    known = json.loads(RESULT.read_text(encoding="utf-8"))["cells"] if RESULT.exists() else {}
    names = [f"{model} {side}" for model, sides in TARGETS.items() for side in sides]
    result = {
        "cells": {name: (known | cells)[name] for name in names if name in known | cells},
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(result)}\n\n{END}{tail}", encoding="utf-8")


def main(rounds: int = 15, name: str = "", side: int = 0) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        for model, targets in TARGETS.items():
            for size in targets:
                if name in ("", model) and side in (0, size):
                    cell = measured(model, size, rounds)
                    print(model, size, cell, flush=True)
                    write({f"{model} {size}": cell})


if __name__ == "__main__":
    rounds, *cell = sys.argv[1:] or ["15"]
    main(int(rounds), *cell[:1], *map(int, cell[1:]))
