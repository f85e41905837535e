"""How deep plain and residual nets can be: the study of `timm-ext depth-study` with its defaults, on one thread.

    python benchmarks/depth.py          trains, about half an hour
    python benchmarks/depth.py --page   writes the page anew from the JSON

Writes benchmarks/depth.json, docs/concepts/depth.png and, from the JSON, docs/concepts/depth.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from timm_backbones_ext.apps.depth_study import DEPTHS, EPOCHS, draw, run_study, steps, summary
from timm_backbones_ext.console import progress

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "concepts"
SEEDS = 3


MODELS = """\
## The models

`ext_resnet20_cifar`, `32`, `44`, `56`, `110` and `1202`, and `ext_plainnet20_cifar` to `110`, are timm's ResNet with a
stem for 32x32 images and three stages. They have no pretrained weights. Edits of ResNet, feature maps, saving and the
Hub work as for all names.

```python
import timm
import torch

backbone = timm.create_model("ext_resnet20_cifar", edits="eca", features_only=True)
assert backbone.feature_info.reduction() == [1, 1, 2, 4]
assert [level.shape[1] for level in backbone(torch.randn(1, 3, 32, 32))] == [16, 16, 32, 64]
```

The study takes any of these depths:

```
timm-ext depth-study --depths 20,56 --seeds 3 --output depth-study
```
"""
"""What the page says of the models; no figure in it is measured."""


def page(result: dict[str, Any]) -> str:
    """The study as Markdown."""
    rows, settings = summary(result), result["settings"]
    table = [
        f"| {'plain' if row['kind'] == 'plainnet' else 'residual'} | {row['depth']} | {cells(row)} |" for row in rows
    ]
    first = {(row["kind"], row["depth"]): row["gradient"]["mean"] for row in rows}
    deepest = max(depth for kind, depth in first if kind == "plainnet")
    machine, versions = result["machine"], result["versions"]
    text = f"""\
# Depth

Made by `benchmarks/depth.py`, which runs `timm-ext depth-study`. The nets are those of section 4.2 of
[He et al.](https://arxiv.org/abs/1512.03385) for small images: 6n + 2 layers, shortcuts without parameters, and plain
twins with the same layers and no shortcuts. Each learned scikit-learn's {result["train_digits"]:,} real 8x8 digits in
{settings["epochs"]} epochs of AdamW (rate {settings["rate"]}, batches of {settings["batch"]}).
{result["test_digits"]} other digits are the test. Initialisation, schedule and order of images are the same for both
kinds. The table has the mean of {settings["seeds"]} seeds, and the least and the most in brackets.

| net | layers | train loss | train accuracy | test accuracy | gradient of the first conv |
|---|---|---|---|---|---|
{chr(10).join(table)}

The gradient is the norm for the weights of the first conv in the first step, before training. With batch norm, the
gradient of a deep plain net *explodes*: it grows from {first["plainnet", min(DEPTHS)]:.3g} at {min(DEPTHS)} layers to
{first["plainnet", deepest]:.3g} at {deepest}. That of a residual net is {first["resnet", deepest]:.3g} at {deepest}.

![Loss, accuracy and gradient by depth](depth.png)

{MODELS}
Measured with torch {versions["torch"]} and timm {versions["timm"]} on {machine["processor"]} with
{machine["threads"]} thread, in {result["seconds"]:,} s on a machine that did other work too.
"""
    return text


def cells(row: dict[str, Any]) -> str:
    """The figures of one net."""
    keys = ("loss", "train_accuracy", "test_accuracy", "gradient")
    return " | ".join(
        f"{row[key]['mean']:.3g} ({row[key]['min']:.3g} to {row[key]['max']:.3g})" if row[key] else "not finite"
        for key in keys
    )


def failures(result: dict[str, Any]) -> list[str]:
    """What of the paper's finding the runs do not show; it has to hold for every seed."""
    found = {(run["kind"], run["depth"], run["seed"]): run for run in result["runs"]}
    limits = [
        ("plainnet", 110, lambda accuracy: accuracy < 0.2, "< 0.2"),
        ("plainnet", 56, lambda accuracy: accuracy < 0.5, "< 0.5"),
        ("resnet", 56, lambda accuracy: accuracy > 0.99, "> 0.99"),
        ("resnet", 110, lambda accuracy: accuracy > 0.7, "> 0.7"),
    ]
    wrong = [
        f"{kind} of {depth} layers, seed {seed}: train accuracy {run['train_accuracy']}, expected {words}"
        for kind, depth, holds, words in limits
        for seed in range(result["settings"]["seeds"])
        if not holds((run := found[kind, depth, seed])["train_accuracy"])
    ]
    for seed in range(result["settings"]["seeds"]):
        plain, residual = (found[kind, 110, seed]["gradient"] for kind in ("plainnet", "resnet"))
        if not plain / residual > 1e4:
            wrong.append(f"seed {seed}: gradient ratio {plain / residual:.3g} at 110 layers, expected > 1e4")
    return wrong


def main(*flags: str) -> None:
    """Run the study if the page alone is not asked for; write the page."""
    if "--page" not in flags:
        torch.set_num_threads(1)
        with progress(steps(DEPTHS, SEEDS, EPOCHS), "epoch", every=EPOCHS) as step:
            run_study(HERE, seeds=SEEDS, step=step)
        (HERE / "depth.png").unlink()
    result = json.loads((HERE / "depth.json").read_text(encoding="utf-8"))
    (DOCS / "depth.md").write_text(page(result), encoding="utf-8")
    draw(result, DOCS / "depth.png")
    if wrong := failures(result):
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
