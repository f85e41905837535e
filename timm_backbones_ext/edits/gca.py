"""Global context attention, GCNet: https://arxiv.org/abs/1904.11492."""

from dataclasses import dataclass
from typing import ClassVar

from ..layers import Gca as Layer
from .attention import Attention
from .base import register_edit

__all__ = ["Gca"]


@register_edit(
    families=("resnet",),
    exact="eval+train",
    evidence="warm insertion: Mask R-CNN R50 38.4 -> 40.4 box AP on COCO (mmdet; added there, a factor here)",
)
@dataclass(frozen=True)
class Gca(Attention):
    """A channel gate from attention-pooled context; the MLP's last layer starts at zero."""

    layer: ClassVar = Layer
