"""A backbone with a feature pyramid, in the form that detectors take."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from .._types import Model
from ..edits import Edit, parse_edits
from ..names import editable, known
from .freezing import freeze_at as freeze
from .necks import NECKS

__all__ = ["Level", "Pyramid", "pad_to", "pyramid"]


class Level(NamedTuple):
    """One map of a pyramid, as detectron2's `ShapeSpec` describes it."""

    channels: int
    height: int | None
    width: int | None
    stride: int


class Pyramid(nn.Module):
    """(N, C, H, W) -> ordered dict of maps, finest first, for images of any size.

    Attributes:
        body: The `features_only` model.
        fpn: The neck; None where the maps are the body's own.
        out_channels: Channels of every map; a tuple where they differ.
        strides: Pixels per position, one number per map.
        size_divisibility: Sides of images that are multiples of this give maps of exactly these strides.
    """

    def __init__(
        self, body: Model, fpn: nn.Module | None, out_channels: int, levels: Sequence[int], names: Sequence[str]
    ) -> None:
        super().__init__()
        self.body, self.fpn = body, fpn
        self.names = list(names)
        self.strides = tuple(2**level for level in levels)
        self.size_divisibility = max(body.feature_info.reduction())
        channels = tuple(body.feature_info.channels())
        self.out_channels: int | tuple[int, ...] = channels if fpn is None else out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Maps by name."""
        maps = self.body(x)
        if self.fpn is not None:
            maps = self.fpn(OrderedDict((str(i), level) for i, level in enumerate(maps))).values()
        return OrderedDict(zip(self.names, maps))

    def output_shape(self) -> dict[str, Level]:
        """Channels and stride of every map by name, for detectron2-style code; sides depend on the image."""
        widths = (self.out_channels,) * len(self.names) if isinstance(self.out_channels, int) else self.out_channels
        rows = zip(self.names, widths, self.strides, strict=True)
        return {name: Level(width, None, None, stride) for name, width, stride in rows}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the body's activations in the backward pass instead of keeping them."""
        self.body.set_grad_checkpointing(enable)


def pyramid(
    backbone: str,
    out_channels: int = 256,
    levels: str = "P3-P7",
    neck: str | None = "fpn",
    *,
    pretrained: bool = False,
    freeze_at: int = 0,
    frozen_bn: bool = False,
    out_norm: bool = False,
    in_chans: int = 3,
    edits: str | Edit | Sequence[str | Edit] | None = None,
    names: Sequence[str] | None = None,
    **kwargs: Any,
) -> Pyramid:
    """A backbone with a feature pyramid, for torchvision's detectors, detectron2-style code and plain loops.

    Args:
        backbone: Name of a variant, with or without a tag: "ext_resnet50_dcn".
        out_channels: Channels of every map; unused without a neck.
        levels: First and last level, "P3-P7"; a map of level k has stride `2**k`. One level above the backbone's is
            the last map subsampled, two are torchvision's `LastLevelP6P7`; both are maxima in a "bifpn".
        neck: "fpn"; "pan", which goes from fine to coarse after it; "bifpn", which goes both ways three times; or None
            for the backbone's own maps.
        pretrained: Load the weights of the backbone.
        freeze_at: Freeze the backbone up to the maps of stride `2**freeze_at`.
        frozen_bn: Freeze all its batch norms.
        out_norm: A layer norm on each map of a ConvNeXt.
        in_chans: Channels of images. More than 3 start with zero weights, so that RGB counts as before; fewer are
            timm's, which sums the weights.
        edits: Further edits of the backbone.
        names: Keys of the maps instead of "p3", "p4", ...; `["0", "1", "2", "3", "pool"]` are those that torchvision's
            Faster R-CNN expects of P2-P6 by default.
        kwargs: Further arguments of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        ValueError: A backbone that timm does not know, with the nearest names; levels, neck or names that cannot be, or
            whatever `timm.create_model` has against the backbone.
    """
    if neck not in (*NECKS, None):
        raise ValueError(f"neck must be one of {(*NECKS, None)}; got {neck!r}")
    if fixed := sorted(kwargs.keys() & {"features_only", "out_indices"}):
        raise ValueError(f"a pyramid sets {' and '.join(fixed)} itself; say which maps by levels='P3-P7'")
    backbone = known(backbone)
    first, last = _span(levels)
    chosen = [*parse_edits(edits), *parse_edits(_asked(in_chans, frozen_bn=frozen_bn, out_norm=out_norm))]
    if in_chans < 3:
        kwargs["in_chans"] = in_chans
    kwargs |= {"features_only": True, **editable(backbone, chosen)}
    reductions = _reductions(backbone, kwargs)
    indices = _indices(reductions, first, last, levels)
    extra = last - (max(reductions[i] for i in indices).bit_length() - 1)
    if extra not in ((0, 1, 2) if neck else (0,)):
        limit = f"two levels more than {max(reductions)}" if neck else f"{max(reductions)}, since there is no neck"
        raise ValueError(f"levels {levels!r}: the stride of the last one can be {limit}; got {2**last}")
    body: Model = timm.create_model(backbone, pretrained=pretrained, out_indices=indices, **kwargs)
    freeze(body, freeze_at)
    fpn = NECKS[neck](body.feature_info.channels(), out_channels, extra) if neck else None
    span = range(first, last + 1)
    names = [f"p{level}" for level in span] if names is None else list(names)
    if len(set(names)) != len(span):
        raise ValueError(f"expected {len(span)} different names for the levels {levels}; got {names}")
    return Pyramid(body, fpn, out_channels, span, names)


def _span(levels: str) -> tuple[int, int]:
    found = re.fullmatch(r"[Pp](\d)-[Pp](\d)", levels) if isinstance(levels, str) else None
    first, last = (int(level) for level in found.groups()) if found else (1, 0)
    if first > last:
        raise ValueError(f"levels are written 'P3-P7', the finest first; got {levels!r}")
    return first, last


def _asked(in_chans: int, *, frozen_bn: bool, out_norm: bool) -> list[str]:
    """Edits that stand for arguments."""
    asked = {f"in_chans({in_chans})": in_chans > 3, "frozen_bn": frozen_bn, "out_norm": out_norm}
    return [text for text, wanted in asked.items() if wanted]


def _reductions(backbone: str, kwargs: dict[str, Any]) -> list[int]:
    """Strides of the backbone's levels, from a model without data."""
    options: dict[str, Any] = {**kwargs, "device": "meta"}
    model: Model = timm.create_model(backbone, **options)
    return model.feature_info.reduction()


def _indices(reductions: list[int], first: int, last: int, levels: str) -> tuple[int, ...]:
    """Indices of the backbone's levels that are in a span: of those with the same stride the last."""
    by_stride = {stride: index for index, stride in enumerate(reductions)}
    wanted = [2**level for level in range(first, last + 1) if 2**level <= max(reductions)]
    missing = [stride for stride in wanted if stride not in by_stride]
    if missing or not wanted:
        raise ValueError(
            f"levels {levels!r}: the backbone has no maps of stride {missing or 2**first}; it has {sorted(by_stride)}"
        )
    return tuple(by_stride[stride] for stride in wanted)


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """(..., H, W) with zeros below and on the right, so that both sides are multiples of a number of pixels.

    Boxes stay where they are.
    """
    if not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"pad_to: expected a positive whole number of pixels; got {multiple!r}")
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))
