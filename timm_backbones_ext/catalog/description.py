"""Levels, parameters and multiply-adds of a model, computed on the meta device, without weights."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from .._types import Model
from ..families import Level, levels

__all__ = ["Description", "describe", "describe_model", "multiply_adds"]


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
    return Description(levels(model), _count(model), multiply_adds(model, (1, *size)) / 1e9, size)


def multiply_adds(model: Model, shape: tuple[int, ...]) -> float:
    """Multiply-adds of a forward pass on images of a shape (N, C, H, W); the model may be on any device."""
    twin = copy.deepcopy(model).to("meta").eval()
    mapping = {torch.ops.torchvision.deform_conv2d: _deform_conv2d}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        twin(torch.empty(shape, device="meta"))
    return counter.get_total_flops() / 2


def _count(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _deform_conv2d(
    x: Sequence[int], weight: Sequence[int], offset: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Twice the multiply-adds of a deformable conv: 4 per sampled value (bilinear), then those of the plain conv."""
    positions = offset[0] * math.prod(offset[2:])
    taps = math.prod(weight[2:])
    return 2 * positions * (4 * x[1] * taps + math.prod(weight))
