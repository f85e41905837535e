"""More input channels that change nothing until they are trained."""

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
    """An input of `n` channels; the new ones come after the old ones and have zero weights.

    timm's `in_chans=n` repeats and rescales the RGB weights instead, which changes what the model computes.
    """

    n: int
    example: ClassVar[str] = "in_chans(5)"

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"in_chans: n must be a positive number of channels; got {self.n!r}")

    def apply(self, model: Model) -> None:
        """Widen the first conv with zero slices; a model that has `n` channels already is left alone."""
        name, conv = first_conv(model)
        if conv.groups != 1 or self.n < conv.in_channels:
            raise ValueError(f"in_chans: {name} has {conv.in_channels} input channels; cannot take {self.n}")
        if self.n == conv.in_channels:
            return
        wider = ExtendedConv2d.replacing(conv)
        wider.grow(self.n - conv.in_channels)
        model.set_submodule(name, wider)
        model.in_chans = self.n
