"""Squeeze and excitation, SENet: https://arxiv.org/abs/1709.01507."""

from dataclasses import dataclass
from typing import ClassVar

from ..layers import Se as Layer
from .attention import Attention
from .base import register_edit

__all__ = ["Se"]


@register_edit(
    families=("resnet", "convnext", "efficientnet"),
    exact="eval+train",
    evidence="from scratch: ResNet-50 75.20 -> 76.71 % top-1 on ImageNet (ECA paper, Table 2)",
)
@dataclass(frozen=True)
class Se(Attention):
    """A channel gate from a two-layer MLP over the pooled channels; its last layer starts at zero."""

    layer: ClassVar = Layer
    stated_on: ClassVar = {"efficientnet": "tf_efficientnet_lite0"}  # all but Lite already have SE
