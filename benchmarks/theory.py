# ruff: noqa: E501 rows of a Markdown table stay on one line
"""The page on the theory of the families: each claim beside what was measured here; nothing is measured here."""

from typing import Any

from timm_backbones_ext.apps.depth_study import summary


def page(depth: dict[str, Any], insertion: dict[str, Any], families: dict[str, Any]) -> str:
    """The claims, each with the published figure, ours, and the place in the code."""
    nets = {net["name"].removeprefix("ext_"): net for net in families["nets"]}
    runs = {(row["kind"], row["depth"]): row for row in summary(depth)}
    plain, residual = runs["plainnet", 56], runs["resnet", 56]
    steep, flat = runs["plainnet", 110]["gradient"]["mean"], runs["resnet", 110]["gradient"]["mean"]
    lost = insertion["digits"]["insertions"]
    tiny, swin, vgg, fifty = (
        nets[n] for n in ("convnext_tiny", "swin_tiny_patch4_window7_224", "vgg16_bn", "resnet50")
    )
    small, large = nets["efficientnet_b0"], nets["efficientnet_b4"]
    return f"""\
# Theory of the four families

Each family answers a question that the one before left open. A claim stands beside the published figure and beside ours.
Ours come from `benchmarks/depth.json`, `benchmarks/insertion.json` and `benchmarks/families.json`; `make figures` writes
this page from them. They are small studies on a CPU and confirm a direction, not a size.

## VGG: the baseline

**Claim.** Two 3x3 convs see what one 5x5 conv sees, with fewer weights and one more nonlinearity
([Simonyan and Zisserman](https://arxiv.org/abs/1409.1556), section 2.3).

| | published | here |
|---|---|---|
| weights for C channels | 2 * 9 C^2 = 18 C^2 against 25 C^2 | the same count |
| VGG-16 with batch norm, ImageNet | {vgg["top1"]} % (torchvision) | {vgg["params"] / 1e6:.1f} M parameters, {vgg["gmacs"]:.2f} GMACs |

**What it left open.** A plain net does not get better with depth. In code: `families/vgg.py`. It is the only family without
residual connections, so edits there have no branch that could be silent: `rep` puts its own beside the conv.

## ResNet: residual connections, and depth

**Claim.** Deeper plain nets have a higher *training* error, and shortcuts cure it
([He et al.](https://arxiv.org/abs/1512.03385), figure 1 and section 4.2).

| | published, CIFAR-10 | here, 8x8 digits |
|---|---|---|
| plain net of 56 layers | training error above that of 20 layers (figure 1) | train accuracy {plain["train_accuracy"]["mean"]:.3g} |
| residual net of 56 layers | test error 6.97 % (table 6) | train accuracy {residual["train_accuracy"]["mean"]:.3g} |
| gradient of the first conv, 110 layers | | plain {steep:.3g}, residual {flat:.3g} |

The gradient of the plain net does not vanish: with batch norm it *explodes*. [Depth](depth.md) has all depths and seeds. In
code: `families/resnet.py`, `models/ext_cifar.py`.

**Why edits work.** A block that adds nothing leaves the sum as it was. Where it starts by adding noise, the function is lost:
{insertion["digits"]["before"]} % of the digits are right before, and {lost["nine blocks"]["usual"]["mean"]} % after nine more
blocks with He's initialisation. [Why the identity](insertion.md) has the rest.

## EfficientNet: compound scaling

**Claim.** Depth, width and resolution should grow together ([Tan and Le](https://arxiv.org/abs/1905.11946), section 3.3).

| | published | here |
|---|---|---|
| B0 | 0.39 GMACs, {small["top1"]} % (table 2) | {small["gmacs"]:.2f} GMACs at {small["side"]} px |
| B4 | 4.2 GMACs, {large["top1"]} % (table 2) | {large["gmacs"]:.2f} GMACs at {large["side"]} px |

[Compound scaling](scaling.md) shows that the published nets do not follow the published rule from B5 on. In code:
`catalog/scaling.py`, `families/efficientnet.py`. Multiply-adds are not time: B0 has a tenth of those of ResNet-50
({fifty["gmacs"]:.2f}) and takes {small["ms"]["median"] / fifty["ms"]["median"]:.2f} of its time here.

## ConvNeXt: a ResNet with what Swin taught

**Claim.** A ResNet reaches a transformer when it takes over its recipe and its design step by step
([Liu et al.](https://arxiv.org/abs/2201.03545), section 2 and figure 2).

| step of the paper | in the code of a block |
|---|---|
| more blocks in stage 3; patches as stem | `stages.2`, `stem`: 4x4 conv of stride 4 |
| depthwise convs, inverted bottleneck | `conv_dw`, `mlp` of four times the width |
| kernels of 7x7, before the 1x1 convs | `conv_dw` first in the block |
| GELU for ReLU, one norm and one activation a block | `norm`, `mlp.act` |
| layer norm; downsampling on its own | `norm`, `downsample` |

| | published | here |
|---|---|---|
| ConvNeXt-T | {tiny["top1"]} % | {tiny["gmacs"]:.2f} GMACs, {tiny["ms"]["median"]:.0f} ms |
| Swin-T | {swin["top1"]} % | {swin["gmacs"]:.2f} GMACs, {swin["ms"]["median"]:.0f} ms |

Latency is one image on one CPU thread; [Families](families.md) has how it was measured. In code: `families/convnext.py`. The
edits `kernel`, `dilated_reparam`, `grn` and `overlap_stem` continue the steps.
"""
