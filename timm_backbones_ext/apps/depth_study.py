"""Plain and residual nets of growing depth learn the digits: section 4.2 of https://arxiv.org/abs/1512.03385.

The digits keep their 8x8 pixels. Both kinds of nets have the same layers, initialisation and schedule.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .._types import Model
from ..catalog.pictures import require_drawable
from .digits import Digits, digits

__all__ = ["DEPTHS", "EPOCHS", "KINDS", "Run", "draw", "run_study", "steps", "summary"]

DEPTHS = (20, 32, 44, 56, 110)
KINDS = ("plainnet", "resnet")
EPOCHS, BATCH, RATE, DECAY = 20, 64, 3e-3, 0.05
FIGURES = {
    "loss": "train loss, last epoch",
    "train_accuracy": "train accuracy",
    "gradient": "gradient norm of the first conv, before training",
}


@dataclass(frozen=True)
class Run:
    """One net, trained once."""

    kind: str
    depth: int
    seed: int
    gradient: float | None
    """Norm of the first conv's gradient in the first step; None where a figure is not finite."""
    loss: float | None
    """Mean over the last epoch."""
    train_accuracy: float
    test_accuracy: float
    seconds: float


def steps(depths: Iterable[int], seeds: int, epochs: int) -> int:
    """Number of calls of `step` in `run_study`: one per epoch."""
    return len(_nets(depths)) * seeds * epochs


def run_study(
    output: Path,
    *,
    depths: Sequence[int] = DEPTHS,
    seeds: int = 3,
    epochs: int = EPOCHS,
    step: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Train every net with every seed; write `depth.json` and `depth.png` to a folder.

    Args:
        output: Folder to write to; made if it does not exist.
        depths: Numbers of layers for which a model exists (see `timm-ext list`).
        seeds: Runs of each net.
        epochs: Passes over the training digits.
        step: Called after each epoch with a few words on it.

    Raises:
        ImportError: matplotlib or scikit-learn is missing.
        ValueError: No model has one of the depths.
    """
    nets, (train, test), begun = _nets(depths), digits(), time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    require_drawable(output / "depth.png", overwrite=True)
    runs = [_run(*net, seed, epochs, train, test, step) for seed in range(seeds) for net in nets]
    result = {
        "runs": [asdict(run) for run in runs],
        "settings": {"seeds": seeds, "epochs": epochs, "batch": BATCH, "rate": RATE, "weight_decay": DECAY},
        "train_digits": len(train.labels),
        "test_digits": len(test.labels),
        "seconds": round(time.perf_counter() - begun),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("torch", "timm", "scikit-learn", "timm-backbones-ext")},
    }
    (output / "depth.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draw(result, output / "depth.png")
    return result


def _nets(depths: Iterable[int]) -> list[tuple[str, int]]:
    """Kind and depth of the nets to train; the deepest have no plain net."""
    there = {net: timm.is_model(_name(*net)) for depth in depths for net in ((kind, depth) for kind in KINDS)}
    if missing := [depth for (kind, depth), found in there.items() if kind == "resnet" and not found]:
        known = sorted(int(name[len("ext_resnet") : -len("_cifar")]) for name in timm.list_models("ext_resnet*_cifar"))
        raise ValueError(f"no net of {missing[0]} layers; there are {', '.join(map(str, known))}")
    return [net for net, found in there.items() if found]


def _name(kind: str, depth: int) -> str:
    return f"ext_{kind}{depth}_cifar"


def _run(
    kind: str, depth: int, seed: int, epochs: int, train: Digits, test: Digits, step: Callable[[str], None]
) -> Run:
    begun = time.perf_counter()
    torch.manual_seed(seed)
    net = timm.create_model(_name(kind, depth), in_chans=1)
    gradient, loss = _train(net, *_tensors(train), epochs, lambda words: step(f"{kind}{depth} seed {seed}: {words}"))
    accuracies = [round(_accuracy(net, *_tensors(part)), 4) for part in (train, test)]
    return Run(kind, depth, seed, _finite(gradient), _finite(loss), *accuracies, round(time.perf_counter() - begun, 1))


def _tensors(part: Digits) -> tuple[Tensor, Tensor]:
    """(N, 1, 8, 8) and (N,)."""
    return torch.tensor(part.images, dtype=torch.float32)[:, None], torch.tensor(part.labels)


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _train(net: Model, images: Tensor, labels: Tensor, epochs: int, step: Callable[[str], None]) -> tuple[float, float]:
    """The first conv's gradient norm in the first step, and the mean loss of the last epoch."""
    total, gradient, loss = epochs * -(-len(images) // BATCH), math.nan, math.nan
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=total)
    net.train()
    for _ in range(epochs):
        losses = []
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            error = nn.functional.cross_entropy(net(images[batch]), labels[batch])
            error.backward()
            gradient = net.conv1.weight.grad.norm().item() if math.isnan(gradient) else gradient
            optimizer.step()
            schedule.step()
            losses.append(error.item() * len(batch))
        loss = sum(losses) / len(images)
        step(f"loss {loss:.3f}")
    return gradient, loss


@torch.inference_mode()
def _accuracy(net: Model, images: Tensor, labels: Tensor) -> float:
    return (net.eval()(images).argmax(1) == labels).float().mean().item()


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean, minimum and maximum of each figure over the seeds, per net; None if a figure was not finite."""
    found = []
    for kind, depth in dict.fromkeys((run["kind"], run["depth"]) for run in result["runs"]):
        runs = [run for run in result["runs"] if (run["kind"], run["depth"]) == (kind, depth)]
        spread = {key: _spread([run[key] for run in runs]) for key in (*FIGURES, "test_accuracy")}
        found.append({"kind": kind, "depth": depth, **spread})
    return found


def _spread(values: list[float | None]) -> dict[str, float] | None:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return None
    return {"mean": float(f"{fmean(finite):.4g}"), "min": min(finite), "max": max(finite)}


def draw(result: dict[str, Any], file: Path) -> None:
    """Loss, accuracy and gradient by depth; lines are means over the seeds, points the runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), dpi=100, layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
        for kind, colour, label in zip(KINDS, ("#c65b3f", "#2f6f8f"), ("plain", "residual"), strict=True):
            points = [
                (run["depth"], run[key]) for run in result["runs"] if run["kind"] == kind and run[key] is not None
            ]
            line = [(row["depth"], row[key]["mean"]) for row in summary(result) if row["kind"] == kind and row[key]]
            axes.plot(*zip(*sorted(line)), color=colour, label=label) if line else None
            axes.plot(*zip(*points), ".", color=colour) if points else None
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("layers")
        axes.spines[["top", "right"]].set_visible(False)
        if key == "gradient":
            axes.set_yscale("log")
    figure.axes[0].legend(frameon=False)
    figure.savefig(file, format="png", metadata={"Software": None})
