"""ConvNeXt and ConvNeXt V2: https://arxiv.org/abs/2201.03545, https://arxiv.org/abs/2301.00808."""

from typing import Any

from timm.models import ConvNeXt, named_apply
from torch import nn

from .._timm import ConvNeXtBlock, GlobalResponseNorm, convnext_init_weights
from .._types import Model
from ..layers import ExtendedConv2d
from .base import Family, Growth, Slot
from .layout import blocks, register

__all__ = ["ConvNeXtFamily"]


@register
class ConvNeXtFamily(Family):
    """Four stages of blocks with a depthwise conv, a layer norm and an MLP."""

    name = "convnext"
    cls = ConvNeXt
    smallest = "test_convnext"
    reference = "convnext_tiny"

    def stages(self, model: Model) -> list[str]:
        """`stages.0.blocks` and so on."""
        return [f"stages.{stage}.blocks" for stage in range(len(model.stages))]

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """Use timm's function for convs and linear layers; set GRN to zero and LayerScale to timm's default, 1e-6."""
        named_apply(convnext_init_weights, model)
        for module in model.modules():
            if isinstance(module, GlobalResponseNorm):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, ConvNeXtBlock) and module.gamma is not None:
                nn.init.constant_(module.gamma, 1e-6)

    def repair(self, model: Model) -> None:
        """Correct a shift in stage 4 of `output_stride=8`, where timm 1.0.31 downsamples with 'same' padding."""
        for stage in model.stages:
            conv = stage.downsample[-1] if isinstance(stage.downsample, nn.Sequential) else None
            if conv is not None and conv.kernel_size == (2, 2) and conv.stride == (1, 1):
                stage.downsample[-1] = ExtendedConv2d.dense(conv, conv.dilation[0])

    def last(self, block: Any) -> list[str]:
        """LayerScale; in a block without LayerScale, as in V2, the last linear layer."""
        return ["gamma"] if block.gamma is not None else ["mlp.fc2.weight", "mlp.fc2.bias"]

    def wire(self, plan: Growth, model: Model) -> None:
        """The MLP of a block may grow, unless it has a GRN."""
        plan.fixed["grn"] = (
            "GRN divides by a mean over the channels of its MLP, and copies of some channels change the mean"
        )
        for name, block in blocks(model):
            grn = isinstance(getattr(block.mlp, "grn", None), GlobalResponseNorm)
            hidden = f"grn of {name}" if grn else f"MLP of {name}"
            plan.wire(name, mlp__fc1=("", hidden), mlp__fc2=(hidden, ""))
            if grn:
                plan.wire(name, mlp__grn=("", hidden))

    def slot(self, block: Any) -> Slot:
        """After the depthwise conv."""
        block.conv_dw = conv = ExtendedConv2d.replacing(block.conv_dw)
        return Slot(conv, "gate", conv.out_channels)
