"""What training keeps between forward and backward pass with `save_memory`, beside timm and timm's checkpointing.

    python benchmarks/memory.py [ROUNDS]      measures, some minutes
    python benchmarks/memory.py --page        writes the page anew from the JSON

The three ways take turns, step by step; gradients are compared first. Writes benchmarks/memory.json and
docs/guides/training-memory.md.
"""

import copy
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from timm_backbones_ext import save_memory
from timm_backbones_ext.console import progress
from timm_backbones_ext.memory import kept_bytes

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "guides" / "training-memory.md"
NETS = ("ext_resnet18", "ext_resnet50", "ext_convnext_tiny", "ext_efficientnet_b0")
BATCH, SIDE = 4, 160
GOAL = {"kept": 0.6, "step": 1.1}


def three_ways(name: str) -> dict[str, nn.Module]:
    """The same net as timm trains it, in less memory, and with timm's checkpointing."""
    plain = timm.create_model(name).train()
    saving, checkpointed = save_memory(copy.deepcopy(plain)), copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    return {"timm": plain, "save_memory": saving, "checkpointing": checkpointed}


def step(model: nn.Module, x: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    model.zero_grad(set_to_none=True)
    begun = time.perf_counter()
    model(x).square().mean().backward()
    return time.perf_counter() - begun


def compare(ways: dict[str, nn.Module], x: Tensor) -> None:
    """Exit unless the gradients are equal to the bit."""
    for model in ways.values():
        step(model, x)
    for name, parameter in ways["timm"].named_parameters():
        if not torch.equal(parameter.grad, ways["save_memory"].get_parameter(name).grad):
            sys.exit(f"the gradients of {name} differ")


def row(name: str, rounds: int) -> dict[str, Any]:
    """The figures of one net."""
    torch.manual_seed(0)
    ways, x = three_ways(name), torch.randn(BATCH, 3, SIDE, SIDE)
    compare(ways, x)
    kept = {way: kept_bytes(model, x) for way, model in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    with progress(rounds, name) as told:
        for _ in range(rounds):
            for way, model in ways.items():
                times[way].append(step(model, x))
            told("step")
    seconds = {way: statistics.median(values) for way, values in times.items()}
    return {
        "timm_mb": round(kept["timm"] / 1e6, 1),
        "kept": {way: round(kept[way] / kept["timm"], 3) for way in ways},
        "step": {way: round(seconds[way] / seconds["timm"], 3) for way in ways},
        "spread": {way: [round(f(values) / seconds["timm"], 3) for f in (min, max)] for way, values in times.items()},
    }


def page(result: dict[str, Any]) -> str:
    """The page as Markdown."""
    rows = [
        f"| `{name}` | {net['timm_mb']:.0f} MB | {net['kept']['save_memory']:.2f} | {net['step']['save_memory']:.2f} | "
        f"{net['kept']['checkpointing']:.2f} | {net['step']['checkpointing']:.2f} |"
        for name, net in result["nets"].items()
    ]
    return f"""\
# Training in less memory

Between forward and backward pass autograd keeps the input of each conv, each norm and each activation, though the
later ones follow from the first. `save_memory` keeps one of the three and computes the others again when the backward
pass asks for them: norms, activations, and 1x1 convs that make four times as many channels. The same operators run on
the same values, so gradients and running statistics are those of the plain model to the bit.

```python
import timm
import torch
import timm_backbones_ext as tbx

model = tbx.save_memory(timm.create_model("ext_resnet18", num_classes=10)).train()
model(torch.randn(2, 3, 64, 64)).sum().backward()
```

It works with `features_only`, in detectors, with DDP and FSDP2. A compiled model is left to the compiler. timm's
`set_grad_checkpointing()` is the next step: it keeps less, and takes a second forward pass.

Made by `benchmarks/memory.py`: {result["batch"]} images of {result["side"]} px in float32 on one CPU thread. The bytes
are those of all memory that is held after the forward pass. Times are medians of {result["rounds"]} steps; the three
took turns. Both are shares of what timm takes.

| net | timm keeps | `save_memory` keeps | its step | checkpointing keeps | its step |
|---|---|---|---|---|---|
{chr(10).join(rows)}

ResNet-18 and 34 gain less: 3x3 convs are too dear to be computed again, and the output of each block has to be kept.
Gradients of gradients are not supported and are an error.
"""


def main(*asked: str) -> None:
    """Measure if the page alone is not asked for; write the page."""
    file = HERE / "memory.json"
    if "--page" not in asked:
        torch.set_num_threads(1)
        rounds = int(asked[0]) if asked else 11
        result = {
            "nets": {name: row(name, rounds) for name in NETS},
            **{"rounds": rounds, "batch": BATCH, "side": SIDE},
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1},
            "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
        }
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads(file.read_text(encoding="utf-8"))
    PAGE.write_text(page(result), encoding="utf-8")
    for name, net in result["nets"].items():
        print(name, *(f"{key} {net[key]['save_memory']} (goal {goal})" for key, goal in GOAL.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
