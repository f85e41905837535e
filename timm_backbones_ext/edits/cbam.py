"""Convolutional block attention: https://arxiv.org/abs/1807.06521."""

from dataclasses import dataclass
from typing import ClassVar

from ..layers import Cbam as Layer
from .attention import Attention
from .base import register_edit

__all__ = ["Cbam"]


@register_edit(
    families=("resnet",),
    exact="eval+train",
    evidence="from scratch: ResNet-50 75.44 -> 77.34 % top-1 on ImageNet (paper, Table 4)",
)
@dataclass(frozen=True)
class Cbam(Attention):
    """Channel and spatial gates; the MLP's last layer and the spatial norm start at zero."""

    layer: ClassVar = Layer
