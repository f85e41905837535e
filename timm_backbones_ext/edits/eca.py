"""Efficient channel attention, ECA-Net: https://arxiv.org/abs/1910.03151."""

from dataclasses import dataclass
from typing import ClassVar

from ..layers import Eca as Layer
from .attention import Attention
from .base import register_edit

__all__ = ["Eca"]


@register_edit(
    families=("resnet", "convnext", "efficientnet"),
    exact="eval+train",
    evidence="from scratch: ResNet-50 75.20 -> 77.48 % top-1 on ImageNet (paper, Table 2)",
)
@dataclass(frozen=True)
class Eca(Attention):
    """A channel gate from a 1D conv over the pooled channels; the conv starts at zero."""

    layer: ClassVar = Layer
    stated_on: ClassVar = {"efficientnet": "tf_efficientnet_lite0"}  # all but Lite already have SE
