"""Switchable atrous convs in a ResNet's residual blocks: DetectoRS, https://arxiv.org/abs/2006.02334, section 4."""

from dataclasses import dataclass

from ..layers import SwitchableConv2d
from .base import register_edit
from .dcn import ConvEdit

__all__ = ["Sac"]


@register_edit(
    families=("resnet",),
    exact="eval+train",
    evidence="warm insertion: Cascade R-CNN R50 40.3 -> 45.0 AP on COCO (mmdet, c3-c5)",
)
@dataclass(frozen=True)
class Sac(ConvEdit):
    """Switchable atrous 3x3 convs in the blocks of `stages`; every switch starts at the plain conv."""

    layer = SwitchableConv2d
