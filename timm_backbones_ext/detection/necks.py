"""Necks: torchvision's FPN (https://arxiv.org/abs/1612.03144), PAN and BiFPN.

PAN (https://arxiv.org/abs/1803.01534) adds a path from fine to coarse. BiFPN (https://arxiv.org/abs/1911.09070) repeats
both paths and learns the weights of its sums. A neck takes an ordered dict of maps, finest first, and returns one, with
added coarser maps at the end. The side of a map may be half of the side before it, rounded down or up.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

__all__ = ["NECKS", "BiFpn", "Pan"]


class Pan(FeaturePyramidNetwork):
    """Maps by name -> maps of equal width by name: an FPN, then a path from fine to coarse (section 3.1).

    It computes what mmdetection's `PAFPN` computes: sums without activations, coarser maps from its last output.

    Args:
        widths: Channels of the input maps, finest first.
        out_channels: Channels of all output maps.
        extra_blocks: Module that adds coarser maps, as for torchvision's FPN.
    """

    def __init__(self, widths: Sequence[int], out_channels: int, extra_blocks: ExtraFPNBlock | None = None) -> None:
        super().__init__(list(widths), out_channels)
        self.halve = nn.ModuleList(_conv(out_channels, stride=2) for _ in widths[1:])
        self.smooth = nn.ModuleList(_conv(out_channels) for _ in widths[1:])
        self.coarser = extra_blocks  # not `extra_blocks`: the FPN would run it too early

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps by name."""
        way, *levels = super().forward(x).values()
        maps, names = [way], list(x)
        for level, halve, smooth in zip(levels, self.halve, self.smooth, strict=True):
            way = level + _cropped(halve(way), level)
            maps.append(smooth(way))
        if self.coarser is not None:
            maps, names = self.coarser(maps, list(x.values()), names)
        return OrderedDict(zip(names, maps, strict=True))


def _conv(channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 conv that starts as torchvision's FPN starts its own."""
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # ty: ignore[invalid-argument-type] there is one
    return conv


class BiFpn(nn.Module):
    """Maps by name -> maps of equal width by name: both paths, repeated, with learned weights (section 3).

    It computes what the `BiFpn` of effdet computes for its EfficientDet-D0. In training its batch norms need more than
    one position per channel: call `tbx.convert_groupnorm(neck)` for single images whose last map is one position.

    Args:
        widths: Channels of the input maps, finest first; at least two.
        out_channels: Channels of all output maps.
        extra: Number of coarser maps, each the maximum over 3x3 positions of the one before.
        repeats: Number of repetitions; EfficientDet-D0 has 3.

    Raises:
        ValueError: There is only one map, including coarser ones.
    """

    def __init__(self, widths: Sequence[int], out_channels: int, extra: int = 0, repeats: int = 3) -> None:
        super().__init__()
        if len(widths) + extra < 2:
            raise ValueError("bifpn mixes maps of different strides: it needs two levels or more; got one")
        ends = [widths[-1], *[out_channels] * extra]
        self.coarser = nn.ModuleList(_lateral(width, out_channels) for width in ends[:-1])
        widths = [*widths, *ends[1:]]
        same = [out_channels] * len(widths)
        self.rounds = nn.ModuleList(_Round(same if again else widths, out_channels) for again in range(repeats))

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps by name."""
        maps, names = list(x.values()), list(x)
        for lateral in self.coarser:
            maps.append(_halved(lateral(maps[-1])))
            names.append(f"coarser{len(names)}")
        for mix in self.rounds:
            maps = mix(maps)
        return OrderedDict(zip(names, maps, strict=True))


class _Round(nn.Module):
    """Maps, finest first -> the same number of maps of equal width: a path from coarse to fine, and one back."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        above = [*[channels] * (len(widths) - 2), widths[-1]]
        pairs = list(zip(widths, above))[::-1]
        self.to_fine = nn.ModuleList(_Mix(pair, channels, _doubled) for pair in pairs)
        sides = [(width, channels, channels) for width in widths[1:-1]]
        self.to_coarse = nn.ModuleList(_Mix(s, channels, _halved) for s in [*sides, (widths[-1], channels)])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        between = [maps[-1]]
        for level, mix in zip(reversed(maps[:-1]), self.to_fine, strict=True):
            between.insert(0, mix(level, between[0]))
        out = between[:1]
        for level, own, mix in zip(maps[1:], between[1:], self.to_coarse, strict=True):
            out.append(mix(level, out[-1]) if own is level else mix(level, own, out[-1]))
        return out


class _Mix(nn.Module):
    """Maps of one P-level and a map of the next -> weighted mean, activation, separable conv."""

    def __init__(self, widths: Sequence[int], channels: int, fit: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.ones(len(widths)))
        self.laterals = nn.ModuleList(_lateral(width, channels) for width in widths)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = _norm(channels)
        self.fit = fit

    def forward(self, *maps: Tensor) -> Tensor:
        *own, other = [lateral(level) for lateral, level in zip(self.laterals, maps, strict=True)]
        share = self.share.relu()
        share = share / (share.sum() + 1e-4)  # the paper's "fast normalized fusion", equation 2
        mean = sum(part * level for part, level in zip(share, (*own, self.fit(other, own[0])), strict=True))
        return self.norm(self.pointwise(self.depthwise(F.silu(mean))))


def _lateral(width: int, channels: int) -> nn.Module:
    if width == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), _norm(channels))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # EfficientDet's


def _doubled(level: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(level, size=like.shape[-2:], mode="nearest")


def _halved(level: Tensor, like: Tensor | None = None) -> Tensor:
    half = F.max_pool2d(level, 3, 2, padding=1)
    return half if like is None else _cropped(half, like)


def _cropped(level: Tensor, like: Tensor) -> Tensor:
    """Crop a map at the right and below to the size of another map, whose sides may be rounded down."""
    return level[..., : like.shape[-2], : like.shape[-1]]


def _fpn(widths: Sequence[int], out_channels: int, extra: int) -> nn.Module:
    return FeaturePyramidNetwork(list(widths), out_channels, _coarser(out_channels, extra))


def _pan(widths: Sequence[int], out_channels: int, extra: int) -> nn.Module:
    return Pan(widths, out_channels, _coarser(out_channels, extra))


def _coarser(channels: int, extra: int) -> ExtraFPNBlock | None:
    blocks: list[ExtraFPNBlock | None] = [None, LastLevelMaxPool(), LastLevelP6P7(channels, channels)]
    return blocks[extra]


NECKS: dict[str, Callable[[Sequence[int], int, int], nn.Module]] = {"fpn": _fpn, "pan": _pan, "bifpn": BiFpn}
"""Constructors by name. Each takes the channels of the input maps, its own channels and the number of maps to add."""
