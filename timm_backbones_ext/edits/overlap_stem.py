"""A ConvNeXt stem whose patches overlap, as in CvT and PVTv2 (https://arxiv.org/abs/2106.13797, section 3.2)."""

from dataclasses import dataclass

from torch import nn

from .._types import Model
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["OverlapStem"]


@register_edit(
    families=("convnext",),
    exact="eval+train",
    evidence="from scratch: PVTv2's overlapping patches 75.1 -> 78.7 % top-1, with its other changes",
)
@dataclass(frozen=True)
class OverlapStem(Edit):
    """Grow the stem's 4x4 conv to 7x7, with stride 4 as before; the new weights start at zero."""

    def apply(self, model: Model) -> None:
        """Grow the stem's conv by one pixel above and left, two below and right."""
        conv = model.stem[0]
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (4, 4) or conv.stride != (4, 4):
            raise ValueError(f"overlap_stem: expected a stem of 4x4 patches with stride 4; got {conv}")
        model.stem[0] = stem = ExtendedConv2d.replacing(conv)
        stem.grow(above=1, below=2, left=1, right=2)  # together stride - 1, so that odd sides give the same size
