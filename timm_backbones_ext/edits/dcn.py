"""Deformable convs in a ResNet's residual blocks: DCNv2, https://arxiv.org/abs/1811.11168, section 4.1."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .._types import Model
from ..families import blocks
from ..layers import DeformConv2d
from .base import Edit, register_edit

__all__ = ["ConvEdit", "Dcn"]


@dataclass(frozen=True)
class ConvEdit(Edit):
    """Base class of edits that replace 3x3 convs in the blocks of a ResNet.

    The conv is `conv2`: the 3x3 conv of a bottleneck block, the second one of a basic block.
    """

    stages: tuple[int, ...] = (2, 3, 4)

    layer: ClassVar[Any]
    """Class of the new conv; its class method `replacing(conv)` makes it from the old one."""

    def apply(self, model: Model) -> None:
        """Replace `conv2` of every block in the stages."""
        for name, block in blocks(model, self.stages):
            conv = getattr(block, "conv2", None)
            if type(conv) is not nn.Conv2d:
                raise ValueError(
                    f"{self.name}: expected a plain nn.Conv2d as {name}.conv2; got {type(conv).__name__}. "
                    "Two edits cannot share a conv: give each its own stages, or take a model with plain 3x3 convs"
                )
            block.conv2 = self.layer.replacing(conv)


@register_edit(
    families=("resnet",),
    exact="eval+train",
    evidence="warm insertion: Faster R-CNN R50 37.4 -> 41.3 AP on COCO (mmdet, c3-c5)",
)
@dataclass(frozen=True)
class Dcn(ConvEdit):
    """Modulated deformable 3x3 convs in the blocks of `stages`; offsets start at 0 and masks at 1."""

    layer = DeformConv2d
