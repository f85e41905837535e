"""A backbone with a feature pyramid, in the form that detectors take."""

import functools
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from .._types import Model
from ..console import html_table
from ..edits import Edit, edit, parse_edits
from ..families import Level
from ..features import FeatureWrapper, feature_model, sharing
from ..names import editable, known
from .freezing import freeze_at as freeze
from .necks import NECKS

__all__ = ["Pyramid", "pad_to", "pyramid"]


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
        """The level of every map by name, for detectron2-style code; its height and width are None."""
        widths = (self.out_channels,) * len(self.names) if isinstance(self.out_channels, int) else self.out_channels
        rows = enumerate(zip(self.names, widths, self.strides, strict=True))
        return {name: Level(index, name, width, stride) for index, (name, width, stride) in rows}

    def _repr_html_(self) -> str:
        """What notebooks show."""
        rows = [(name, level.channels, level.stride) for name, level in self.output_shape().items()]
        neck = type(self.fpn).__name__ if self.fpn is not None else "no neck"
        return html_table(("map", "channels", "stride"), rows, f"{type(self.body).__name__} with {neck}")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the body's activations in the backward pass instead of keeping them."""
        self.body.set_grad_checkpointing(enable)


def pyramid(
    backbone: str | nn.Module,
    out_channels: int = 256,
    levels: str = "P3-P7",
    neck: str | None = "fpn",
    *,
    pretrained: bool = False,
    freeze_at: int = 0,
    frozen_bn: bool = False,
    out_norm: bool = False,
    in_chans: int | None = None,
    edits: str | Edit | Sequence[str | Edit] | None = None,
    names: Sequence[str] | None = None,
    **kwargs: Any,
) -> Pyramid:
    """A backbone with a feature pyramid, for torchvision's detectors, detectron2-style code and plain loops.

    Args:
        backbone: Name of a variant, with or without a tag: "ext_resnet50_dcn". Or a live model, full or
            `features_only`, which does not change and shares its tensors with the pyramid.
        out_channels: Channels of every map; unused without a neck.
        levels: First and last P-level, "P3-P7"; the map of P-level k has stride `2**k`. One P-level above the
            backbone's is the last map subsampled, two are torchvision's `LastLevelP6P7`; a "bifpn" takes maxima.
        neck: "fpn"; "pan", which adds a path from fine to coarse; "bifpn", which goes both ways three times; or None
            for the backbone's own maps.
        pretrained: Load the weights of the backbone.
        freeze_at: Freeze the backbone up to the maps of stride `2**freeze_at`.
        frozen_bn: Freeze all its batch norms.
        out_norm: A layer norm on each map of a ConvNeXt.
        in_chans: Channels of images, by the edit `in_chans(n)`: added channels start with zero weights; one channel
            gets the sum of the weights.
        edits: Further edits of the backbone.
        names: Keys of the maps instead of "p3", "p4", ...; `["0", "1", "2", "3", "pool"]` are those that torchvision's
            Faster R-CNN expects of P2-P6 by default.
        kwargs: Further arguments of `timm.create_model`, such as `drop_path_rate`.

    Raises:
        ValueError: The backbone is unknown (the message lists similar names); levels, neck or names are invalid;
            `timm.create_model` raises an error; or arguments for it are given with a live model.
    """
    if neck not in (*NECKS, None):
        raise ValueError(f"neck must be one of {(*NECKS, None)}; got {neck!r}")
    first, last = _span(levels)
    span = range(first, last + 1)
    names = [f"p{level}" for level in span] if names is None else list(names)
    if len(set(names)) != len(span):
        raise ValueError(f"expected {len(span)} different names for the levels {levels}; got {names}")
    chosen = [*parse_edits(edits), *parse_edits(_asked(in_chans, frozen_bn=frozen_bn, out_norm=out_norm))]
    if isinstance(backbone, str):
        reductions, make = _by_name(backbone, chosen, {**kwargs, "pretrained": pretrained})
    else:
        reductions, make = _of_model(backbone, chosen, {**kwargs, **({"pretrained": True} if pretrained else {})})
    indices, extra = _indices(reductions, first, last, levels, neck)
    body = freeze(make(out_indices=indices), freeze_at)
    fpn = NECKS[neck](body.feature_info.channels(), out_channels, extra) if neck else None
    return Pyramid(body, fpn, out_channels, span, names)


Body = tuple[list[int], Callable[..., Model]]
"""Strides of a backbone's levels, and what makes its `features_only` model, given `out_indices`."""


def _by_name(backbone: str, edits: list[Edit], kwargs: dict[str, Any]) -> Body:
    """A backbone that timm creates; its strides are read from a model on the device `meta`."""
    if fixed := sorted(kwargs.keys() & {"features_only", "out_indices"}):
        raise ValueError(f"a pyramid sets {' and '.join(fixed)} itself; say which maps by levels='P3-P7'")
    backbone = known(backbone)
    kwargs = {**kwargs, "features_only": True, **editable(backbone, edits)}
    without_data: dict[str, Any] = {**kwargs, "pretrained": False, "device": "meta"}
    model: Model = timm.create_model(backbone, **without_data)
    return model.feature_info.reduction(), functools.partial(timm.create_model, backbone, **kwargs)


def _of_model(model: Model, edits: list[Edit], given: dict[str, Any]) -> Body:
    """A live backbone; the pyramid gets a copy of its modules with the same tensors."""
    if given:
        raise ValueError(f"pyramid: {', '.join(given)} are for a backbone that is created by name; this one is there")
    full = model.full_model() if isinstance(model, FeatureWrapper) else model
    if not isinstance(getattr(full, "feature_info", None), list):
        raise ValueError(
            f"pyramid: expected a name, a full timm model or a features_only model of an ext_ name; got "
            f"{type(model).__name__}"
        )
    full = sharing(full)
    if edits:
        edit(full, *edits)
    return [info["reduction"] for info in full.feature_info], functools.partial(feature_model, full)


def _span(levels: str) -> tuple[int, int]:
    found = re.fullmatch(r"[Pp](\d)-[Pp](\d)", levels) if isinstance(levels, str) else None
    first, last = (int(level) for level in found.groups()) if found else (1, 0)
    if first > last:
        raise ValueError(f"levels are written 'P3-P7', the finest first; got {levels!r}")
    return first, last


def _asked(in_chans: int | None, *, frozen_bn: bool, out_norm: bool) -> list[str]:
    """The edits for the arguments `in_chans`, `frozen_bn` and `out_norm`."""
    asked = {f"in_chans({in_chans})": in_chans is not None, "frozen_bn": frozen_bn, "out_norm": out_norm}
    return [text for text, wanted in asked.items() if wanted]


def _indices(
    reductions: list[int], first: int, last: int, levels: str, neck: str | None
) -> tuple[tuple[int, ...], int]:
    """Backbone levels for a span (the last level of each stride), and the number of P-levels to add."""
    by_stride = {stride: index for index, stride in enumerate(reductions)}
    most = max(reductions)
    wanted = [2**level for level in range(first, last + 1) if 2**level <= most]
    missing = [stride for stride in wanted if stride not in by_stride]
    if missing or not wanted:
        raise ValueError(
            f"levels {levels!r}: the backbone has no maps of stride {missing or 2**first}; it has {sorted(by_stride)}"
        )
    extra = last - (max(wanted).bit_length() - 1)
    if extra not in ((0, 1, 2) if neck else (0,)):
        limit = f"two levels more than {most}" if neck else f"{most}, since there is no neck"
        raise ValueError(f"levels {levels!r}: the stride of the last one can be {limit}; got {2**last}")
    return tuple(by_stride[stride] for stride in wanted), extra


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """Pad images (..., H, W) with zeros below and on the right, so that both sides are multiples of `multiple` pixels.

    Coordinates of boxes stay valid.
    """
    if not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"pad_to: expected a positive whole number of pixels; got {multiple!r}")
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))
