"""What the attention edits share: where a gate goes."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .._types import Model
from ..layers import ExtendedConv2d
from . import Edit
from .families import blocks, family_of

__all__ = ["Attention"]


@dataclass(frozen=True)
class Attention(Edit):
    """A gate per block: of a ResNet at the end of the residual branch, of a ConvNeXt after the depthwise conv."""

    stages: tuple[int, ...] = (1, 2, 3, 4)

    layer: ClassVar[Any]
    """Called with the number of channels, `device` and `dtype`."""

    def apply(self, model: Model) -> None:
        """Put a gate into every block of the stages."""
        convnext = family_of(model) == "convnext"
        for name, block in blocks(model, self.stages):
            if convnext:
                block.conv_dw = conv = ExtendedConv2d.replacing(block.conv_dw)
                self._check_free(f"{name}.conv_dw.gate", conv.gate)
                conv.gate = self._gate(conv.out_channels, conv)
            else:
                self._check_free(f"{name}.se", getattr(block, "se", block))
                last = block.conv3 if hasattr(block, "conv3") else block.conv2
                block.se = self._gate(last.out_channels, block.conv1)

    def _gate(self, channels: int, like: nn.Conv2d) -> nn.Module:
        weight = like.weight
        return self.layer(channels, device=weight.device, dtype=weight.dtype).train(like.training)

    def _check_free(self, place: str, found: Any) -> None:
        if found is not None and not isinstance(found, nn.Identity):
            raise ValueError(
                f"{self.name}: expected no attention at {place}; found {type(found).__name__}. "
                "Two attention edits cannot share a block: give each its own stages"
            )
