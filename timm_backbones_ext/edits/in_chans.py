"""Another number of input channels that keeps what the pretrained model computes."""

from dataclasses import dataclass
from typing import ClassVar

from .._types import Model
from ..families import FAMILIES, first_conv
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["InChans"]


@register_edit(families=tuple(FAMILIES), exact="eval+train", evidence="none: exact for any content of the new channels")
@dataclass(frozen=True)
class InChans(Edit):
    """An input of `n` channels: more channels than the base's come after them and start with zero weights.

    One channel gets the sum of the base's weights, which is exact for grey images, those whose channels are equal. Two
    of three channels cannot be exact and are refused. `timm.create_model("ext_...", in_chans=n)` is this edit.
    """

    n: int
    example: ClassVar[str] = "in_chans(5)"

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"in_chans: n must be a positive number of channels; got {self.n!r}")

    @property
    def content(self) -> str:
        """Grey images for one channel, any images for more."""
        return "grey" if self.n == 1 else "any"

    def apply(self, model: Model) -> None:
        """Change the first conv; a model that has `n` channels already is left alone."""
        name, conv = first_conv(model)
        if conv.groups != 1 or 1 < self.n < conv.in_channels:
            raise ValueError(
                f"in_chans: {name} has {conv.in_channels} input channels; expected 1 or a number from "
                f"{conv.in_channels}, got {self.n}. Give the model zeros for channels that are missing"
            )
        if self.n == conv.in_channels:
            return
        changed = ExtendedConv2d.replacing(conv)
        if self.n == 1:
            changed.sum_inputs()
        else:
            changed.grow(self.n - conv.in_channels)
        model.set_submodule(name, changed.simplest())
        model.in_chans = self.n
