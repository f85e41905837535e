"""The families side by side, and Swin beside them: parameters, multiply-adds, latency on a CPU, published accuracy.

    python benchmarks/families.py          measures, a few minutes
    python benchmarks/families.py --page   writes published figures and the page anew

Latency is the median of `ROUNDS` forward passes of one image on one thread. The nets take turns, so that a machine that
slows down slows all of them. Writes benchmarks/families.json and, from it, docs/concepts/families.md.
"""

import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch

from timm_backbones_ext.catalog.description import describe
from timm_backbones_ext.console import progress

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "concepts" / "families.md"
ROUNDS = 9


class Net(NamedTuple):
    """A net, and its published top-1 accuracy on ImageNet-1k, single crop, trained on ImageNet-1k only."""

    name: str
    family: str
    top1: float
    side: int
    """Pixels at which the accuracy was published, and at which the net is measured."""
    source: str


TORCHVISION = "https://pytorch.org/vision/stable/models.html, IMAGENET1K_V1; torchvision's own metadata, as a test says"
EFFICIENTNET = "https://arxiv.org/abs/1905.11946v5, table 2"
CONVNEXT = "https://github.com/facebookresearch/ConvNeXt, README at 048efcea, ImageNet-1K trained models"
SWIN = "https://github.com/microsoft/Swin-Transformer, README at 005e8efa, pretrained on ImageNet-1K"
NETS = (
    Net("ext_vgg16_bn", "VGG", 73.36, 224, TORCHVISION),
    Net("ext_vgg19_bn", "VGG", 74.22, 224, TORCHVISION),
    Net("ext_resnet50", "ResNet", 76.13, 224, TORCHVISION),
    Net("ext_resnet101", "ResNet", 77.37, 224, TORCHVISION),
    Net("ext_resnet152", "ResNet", 78.31, 224, TORCHVISION),
    Net("ext_efficientnet_b0", "EfficientNet", 77.1, 224, EFFICIENTNET),
    Net("ext_efficientnet_b2", "EfficientNet", 80.1, 260, EFFICIENTNET),
    Net("ext_efficientnet_b4", "EfficientNet", 82.9, 380, EFFICIENTNET),
    Net("ext_convnext_tiny", "ConvNeXt", 82.1, 224, CONVNEXT),
    Net("ext_convnext_small", "ConvNeXt", 83.1, 224, CONVNEXT),
    Net("ext_convnext_base", "ConvNeXt", 83.8, 224, CONVNEXT),
    Net("swin_tiny_patch4_window7_224", "Swin", 81.2, 224, SWIN),
    Net("swin_small_patch4_window7_224", "Swin", 83.2, 224, SWIN),
    Net("swin_base_patch4_window7_224", "Swin", 83.5, 224, SWIN),
)


def measured(nets: tuple[Net, ...], rounds: int) -> dict[str, dict[str, Any]]:
    """What each net costs; the latencies come from one run in which the nets take turns."""
    live = {net.name: (timm.create_model(net.name).eval(), torch.randn(1, 3, net.side, net.side)) for net in nets}
    times: dict[str, list[float]] = {net.name: [] for net in nets}
    with torch.inference_mode(), progress(rounds + 1, "round") as step:
        for count in range(rounds + 1):
            for name, (model, image) in live.items():
                begun = time.perf_counter()
                model(image)
                times[name].append(1e3 * (time.perf_counter() - begun))
            step("warm" if count else "warming up")
    return {net.name: {**_figures(net), "ms": _milliseconds(times[net.name][1:])} for net in nets}


def _figures(net: Net) -> dict[str, Any]:
    facts = describe(net.name, pretrained_cfg_overlay={"input_size": (3, net.side, net.side)})
    return {"params": facts.params, "gmacs": round(facts.gmacs, 3)}


def _milliseconds(times: list[float]) -> dict[str, float]:
    return {key: round(f(times), 1) for key, f in (("median", statistics.median), ("min", min), ("max", max))}


def page(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    rows = [
        f"| {net['family']} | `{net['name']}` | {net['side']} | {net['params'] / 1e6:.1f} | {net['gmacs']:.2f} | "
        f"{net['ms']['median']:.0f} ({net['ms']['min']:.0f} to {net['ms']['max']:.0f}) | {net['top1']} |"
        for net in result["nets"]
    ]
    sources = [f"- {family}: {source}" for family, source in {n["family"]: n["source"] for n in result["nets"]}.items()]
    versions = result["versions"]
    return f"""\
# Families

Made by `benchmarks/families.py`. Parameters and multiply-adds are worked out; multiply-adds are those of convs and
matrix products. Latency is the median of {result["rounds"]} forward passes of one image in float32 on one CPU thread,
with the fastest and the slowest; the nets took turns in one run. Top-1 is the published accuracy on ImageNet-1k for one
crop of this size, trained on ImageNet-1k alone. The training recipes differ, so the column compares publications and
not architectures: ResNet-50 alone goes from 76.1 % to 80.4 % with the recipe of <https://arxiv.org/abs/2110.00476>.

| family | net | pixels | parameters, M | GMACs | latency, ms | top-1, % |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Sources of the accuracies:

{chr(10).join(sources)}

Swin is timm's own and has no variant here; it stands for comparison.

Measured with torch {versions["torch"]} and timm {versions["timm"]} on {result["machine"]["processor"]}, with other work
on the machine: compare the rows with each other, and not with other tables.
"""


def main(*flags: str) -> None:
    """Measure if the page alone is not asked for; write the page."""
    file = HERE / "families.json"
    if "--page" not in flags:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        found = measured(NETS, ROUNDS)
        result = {
            "nets": [{**net._asdict(), **found[net.name]} for net in NETS],
            "rounds": ROUNDS,
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": 1},
            "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
        }
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads(file.read_text(encoding="utf-8"))
    published = {net.name: net._asdict() for net in NETS}
    result["nets"] = [{**net, **published[net["name"]]} for net in result["nets"]]  # what is published is not measured
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
