"""A ConvNeXt with finer maps: dilation replaces downsampling, as in DeepLab (https://arxiv.org/abs/1706.05587)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .._types import Model
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["OutputStride"]


@register_edit(
    families=("convnext",),
    exact="eval+train",
    evidence="none: the atrous property, the base's values at the base's positions; usual for segmentation",
)
@dataclass(frozen=True)
class OutputStride(Edit):
    """Maps of stride `n` (8 or 16 pixels) at most, with the base's values at every position of the base's maps.

    Exact for images whose sides are multiples of 32 pixels. `timm.create_model(..., output_stride=n)` makes the same
    model.
    """

    n: int = 8
    multiple: ClassVar[int] = 32
    sampling: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n not in (8, 16):
            raise ValueError(f"output_stride: n must be 8 or 16 pixels; got {self.n!r}")

    def apply(self, model: Model) -> None:
        """Set the stride of the last downsampling convs to 1 and dilate the convs after them."""
        strides = [info["reduction"] for info in model.feature_info]
        if strides != [4, 8, 16, 32]:
            raise ValueError(f"output_stride: expected a model with maps of stride 4, 8, 16 and 32; got {strides}")
        dilation = 1
        for info, stage in zip(model.feature_info, model.stages, strict=True):
            if info["reduction"] > self.n:
                stage.downsample[-1] = ExtendedConv2d.dense(stage.downsample[-1], dilation)
                dilation *= 2
                info["reduction"] = self.n
            for block in stage.blocks if dilation > 1 else ():
                block.conv_dw = _dilated(block.conv_dw, dilation)


def _dilated(conv: Any, dilation: int) -> ExtendedConv2d:
    extended = ExtendedConv2d.replacing(conv)
    extended.dilate(dilation)
    return extended
