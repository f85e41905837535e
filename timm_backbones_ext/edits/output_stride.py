"""A ConvNeXt with finer maps: downsampling exchanged for dilation, DeepLab (https://arxiv.org/abs/1706.05587)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from timm.models import ConvNeXt
from torch import nn

from .._types import Model
from ..layers import ExtendedConv2d
from . import Edit, edit_class

__all__ = ["OutputStride", "mend"]


@edit_class(
    families=("convnext",),
    exact="eval+train",
    evidence="none: the atrous property, the base's values at the base's positions; usual for segmentation",
)
@dataclass(frozen=True)
class OutputStride(Edit):
    """Maps of stride `n` (8 or 16 pixels) at the most, with the base's values at every position that it has.

    For images whose sides are multiples of 32 pixels. `timm.create_model(..., output_stride=n)` makes the same model
    from the start.
    """

    n: int = 8
    multiple: ClassVar[int] = 32
    sampling: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n not in (8, 16):
            raise ValueError(f"output_stride: n must be 8 or 16 pixels; got {self.n!r}")

    def apply(self, model: Model) -> None:
        """Take the stride from the last downsamplings and dilate what follows."""
        strides = [info["reduction"] for info in model.feature_info]
        if strides != [4, 8, 16, 32]:
            raise ValueError(f"output_stride: expected a model with maps of stride 4, 8, 16 and 32; got {strides}")
        dilation = 1
        for info, stage in zip(model.feature_info, model.stages, strict=True):
            if info["reduction"] > self.n:
                stage.downsample[-1] = _dense(stage.downsample[-1], dilation)
                dilation *= 2
                info["reduction"] = self.n
            for block in stage.blocks if dilation > 1 else ():
                block.conv_dw = _dilated(block.conv_dw, dilation)


def _dense(conv: nn.Conv2d, dilation: int) -> ExtendedConv2d:
    """A downsampling conv at every position; its window begins where it began, so zeros go to the end."""
    dense = ExtendedConv2d.replacing(conv)
    dense.stride, dense.dilation = (1, 1), (dilation, dilation)
    dense.pad_by(0, dilation * (conv.kernel_size[1] - 1), 0, dilation * (conv.kernel_size[0] - 1))
    return dense


def _dilated(conv: Any, dilation: int) -> ExtendedConv2d:
    extended = ExtendedConv2d.replacing(conv)
    extended.dilate(dilation)
    return extended


def mend(model: Model) -> Model:
    """Set right what timm 1.0.31 makes of `output_stride=8`: stage 4 is shifted by a pixel, for 'same' pads centre."""
    if isinstance(model, ConvNeXt):
        for stage in model.stages:
            conv = stage.downsample[-1] if isinstance(stage.downsample, nn.Sequential) else None
            if conv is not None and conv.kernel_size == (2, 2) and conv.stride == (1, 1):
                stage.downsample[-1] = _dense(conv, conv.dilation[0])
    return model
