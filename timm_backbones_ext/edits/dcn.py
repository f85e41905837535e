"""Deformable convs in a ResNet's residual blocks: DCNv2, https://arxiv.org/abs/1811.11168, section 4.1."""

from dataclasses import dataclass

from torch import nn

from ..layers import DeformConv2d
from . import Edit, edit_class
from .families import blocks

__all__ = ["Dcn"]


@edit_class(
    families=("resnet",),
    exact="eval+train",
    evidence="warm insertion: Faster R-CNN R50 37.4 -> 41.3 AP on COCO (mmdet, c3-c5)",
)
@dataclass(frozen=True)
class Dcn(Edit):
    """Modulated deformable 3x3 convs in the blocks of `stages`; offsets and masks start neutral.

    The conv is `conv2`: the 3x3 conv of a bottleneck block, the second one of a basic block.
    """

    stages: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        if not self.stages or not set(self.stages) <= {1, 2, 3, 4} or len(set(self.stages)) < len(self.stages):
            raise ValueError(f"dcn: stages must be some of (1, 2, 3, 4), each once; got {self.stages!r}")

    def apply(self, model: nn.Module) -> None:
        """Replace `conv2` of every block in the stages."""
        for name, block in blocks(model, self.stages):
            conv = getattr(block, "conv2", None)
            if type(conv) is not nn.Conv2d:
                raise ValueError(
                    f"dcn: expected a plain nn.Conv2d as {name}.conv2; got {type(conv).__name__}. "
                    "Take other stages, or a model whose blocks have a plain 3x3 conv"
                )
            block.conv2 = DeformConv2d.replacing(conv)
