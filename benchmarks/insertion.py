"""What inserting a module into a trained net does to it, with the usual and with the identity initialisation.

    python benchmarks/insertion.py [EPOCHS]

A ResNet-20 learns scikit-learn's real 8x8 digits; then each module is put in, and the accuracy on the test digits is
measured at once, without further training: the mean, least and most of `SEEDS` initialisations. Writes
benchmarks/insertion.json, and docs/insertion.md and docs/insertion.png from it.
"""

import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.layers import EcaModule, GlobalContext, SEModule
from timm.layers.cbam import CbamModule
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from usual import masks_at_half

import timm_backbones_ext as tbx

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
SEEDS = 5
SIDE = 32  # pixels that the 8x8 digits are scaled to
USUAL_ATTENTION = {"eca": EcaModule, "se": SEModule, "cbam": CbamModule, "gca": GlobalContext}
Insertion = Callable[[ResNet], Any]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels for training, images and labels for testing."""
    data = load_digits()
    images = nn.functional.interpolate(
        torch.tensor(data.images).float()[:, None] / 8 - 1, (SIDE, SIDE), mode="bilinear"
    )
    split = train_test_split(range(len(images)), test_size=0.25, random_state=0, stratify=data.target)
    labels = torch.tensor(data.target)
    return images[split[0]], labels[split[0]], images[split[1]], labels[split[1]]


def train(images: Tensor, labels: Tensor, epochs: int) -> ResNet:
    """A ResNet-20 that has learned the digits."""
    torch.manual_seed(0)
    net = ResNet(BasicBlock, (3, 2, 2, 2), in_chans=1, num_classes=10, channels=(16, 32, 64, 128), zero_init_last=False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In percent."""
    return 100 * (net.eval()(images).argmax(1) == labels).float().mean().item()


def usual_attention(net: ResNet, name: str) -> None:
    """timm's layer as timm initialises it: gates start near one half."""
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            block.se = USUAL_ATTENTION[name](block.conv2.out_channels)


def usual_dcn(net: ResNet) -> None:
    """Masks that start at one half."""
    masks_at_half(tbx.edit(net, "dcn"))


def deepen(net: ResNet, *, identity: bool) -> None:
    """Nine more residual blocks; at the identity the last norm of each has zero weights."""
    for stage, count in ((net.layer1, 3), (net.layer2, 2), (net.layer3, 2), (net.layer4, 2)):
        for _ in range(count):
            block = BasicBlock(stage[-1].conv2.out_channels, stage[-1].conv2.out_channels)
            for conv in (block.conv1, block.conv2):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if identity:
                block.zero_init_last()
            stage.append(block)


INSERTIONS: dict[str, tuple[Insertion, Insertion]] = {
    **{
        name: (partial(usual_attention, name=name), lambda net, name=name: tbx.edit(net, name))
        for name in USUAL_ATTENTION
    },
    "dcn": (usual_dcn, lambda net: tbx.edit(net, "dcn")),
    "nine blocks": (partial(deepen, identity=False), partial(deepen, identity=True)),
}
"""With the usual initialisation, and with the identity."""


def after(net: ResNet, insert: Insertion, test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy right after an insertion, over seeds."""
    found = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        twin = copy.deepcopy(net)
        insert(twin)
        found.append(accuracy(twin, *test))
    return {"mean": round(statistics.mean(found), 1), "min": round(min(found), 1), "max": round(max(found), 1)}


def draw(result: dict, file: Path) -> None:
    """Bars per insertion, and the accuracy before as a line."""
    names, kinds = list(result["insertions"]), ("usual", "identity")
    figure, axes = plt.subplots(figsize=(9, 4.2), dpi=100, layout="constrained")
    for offset, kind, colour in zip((-0.2, 0.2), kinds, ("#c65b3f", "#2f6f8f"), strict=True):
        values = [result["insertions"][name][kind]["mean"] for name in names]
        bars = axes.barh(
            [i + offset for i in range(len(names))], values, 0.38, color=colour, label=f"{kind} initialisation"
        )
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.axvline(result["before"], color="black", linestyle=":", linewidth=1.2, label=f"before: {result['before']} %")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xlabel("test accuracy on real digits right after insertion, %")
    axes.set_title("Inserting a module into a trained net", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    figure.savefig(file)


def page(result: dict) -> str:
    """The table as Markdown."""
    rows = [
        f"| {name} | {facts['usual']['mean']} ({facts['usual']['min']} to {facts['usual']['max']}) | "
        f"{facts['identity']['mean']} |"
        for name, facts in result["insertions"].items()
    ]
    lines = (
        "# Why the identity",
        "",
        "Made by `benchmarks/insertion.py`. A ResNet-20, whose residual branches have full weight from the start,",
        f"learned scikit-learn's real 8x8 digits: {result['before']} % of {result['test_digits']} test digits.",
        "Then each module was put in, and the accuracy measured at once, without further training: mean of",
        f"{result['seeds']} initialisations, with the least and the most.",
        "",
        "| inserted | usual initialisation, % | identity, % |",
        "|---|---|---|",
        *rows,
        "",
        "The usual initialisation is timm's for attention, masks at one half for `dcn` as in the paper and in mmcv,",
        "and He's for nine more residual blocks.",
        "",
        "![Accuracy after insertion](insertion.png)",
    )
    return "\n".join(lines) + "\n"


def main(epochs: int = 20) -> None:
    """Train, insert, measure, write and print."""
    start = time.perf_counter()
    images, labels, *test = digits()
    net = train(images, labels, epochs)
    result = {
        "before": round(accuracy(net, *test), 1),
        "insertions": {
            name: dict(zip(("usual", "identity"), (after(net, insert, test) for insert in pair), strict=True))
            for name, pair in INSERTIONS.items()
        },
        "test_digits": len(test[0]),
        "seeds": SEEDS,
        "seconds": round(time.perf_counter() - start),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "scikit-learn", "timm-backbones-ext")},
    }
    print(text := json.dumps(result, indent=2))
    changed = [
        name for name, facts in result["insertions"].items() if set(facts["identity"].values()) != {result["before"]}
    ]
    if changed:
        sys.exit(f"the identity changes the accuracy: {', '.join(changed)}")
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    (DOCS / "insertion.md").write_text(page(result), encoding="utf-8")
    draw(result, DOCS / "insertion.png")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
