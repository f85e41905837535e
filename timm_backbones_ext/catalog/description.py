"""Levels, parameters and multiply-adds of a model, computed on the meta device, without weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from .._types import Model
from ..families import Level, levels

__all__ = ["Description", "describe", "describe_model"]


@dataclass(frozen=True)
class Description:
    """Costs and levels of a model."""

    levels: tuple[Level, ...]
    params: int
    gmacs: float
    """1e9 multiply-adds of one forward pass on an image of `input_size`."""
    input_size: tuple[int, int, int]
    """(C, H, W)."""


def describe(name: str, **kwargs: Any) -> Description:
    """Describe the model that `timm.create_model(name, **kwargs)` makes."""
    with torch.device("meta"):
        return describe_model(timm.create_model(name, **kwargs))


def describe_model(model: Model) -> Description:
    """Describe a full timm model that is on the meta device."""
    model = model.eval()
    size = (model.in_chans, *model.pretrained_cfg["input_size"][1:])
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.torchvision.deform_conv2d: _deform_conv2d}
    ) as counter:
        model(torch.empty(1, *size, device="meta"))
    return Description(levels(model), _count(model), counter.get_total_flops() / 2e9, size)


def _count(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _deform_conv2d(
    x: Sequence[int], weight: Sequence[int], offset: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Twice the multiply-adds of a deformable conv: 4 per sampled value (bilinear), then those of the plain conv."""
    positions = offset[0] * math.prod(offset[2:])
    taps = math.prod(weight[2:])
    return 2 * positions * (4 * x[1] * taps + math.prod(weight))
