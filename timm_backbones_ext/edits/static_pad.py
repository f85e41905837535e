"""Fixed padding for EfficientNets with TensorFlow's weights."""

from dataclasses import dataclass
from typing import ClassVar

from timm.layers import Conv2dSame

from .._types import Model
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["StaticPad"]


@register_edit(
    families=("efficientnet",),
    exact="eval+train",
    evidence="none: exact for sides that are multiples of 32; exports and compiles without dynamic padding",
)
@dataclass(frozen=True)
class StaticPad(Edit):
    """Fixed pads of (0, 1) or (1, 2) pixels, where the base computes the padding from the size of each image."""

    multiple: ClassVar[int] = 32
    tried_on: ClassVar[dict[str, str]] = {"efficientnet": "tf_efficientnet_b0"}
    stated_on: ClassVar[dict[str, str]] = tried_on

    def apply(self, model: Model) -> None:
        """Fix the pads of every conv with 'same' padding."""
        convs = [
            (name, conv)
            for name, conv in model.named_modules()
            if type(conv) is Conv2dSame or (isinstance(conv, ExtendedConv2d) and conv.same)
        ]
        if not convs:
            raise ValueError(f"static_pad: {type(model).__name__} has no conv with 'same' padding; it needs no edit")
        for name, conv in convs:
            extended = ExtendedConv2d.replacing(conv)
            extended.pad_statically()
            model.set_submodule(name, extended)
