"""More input channels that change nothing until they are trained."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from .._types import Model
from . import Edit, edit_class
from .families import FAMILIES, first_conv

__all__ = ["InChans"]


@edit_class(families=tuple(FAMILIES), exact="eval+train", evidence="none: exact for any content of the new channels")
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
        model.set_submodule(name, WiderInput.replacing(conv, self.n))
        model.in_chans = self.n


class WiderInput(nn.Conv2d):
    """A first conv whose weights for the input channels from `base_chans` on start at zero."""

    base_chans: int

    @classmethod
    def replacing(cls, conv: nn.Conv2d, in_chans: int) -> "WiderInput":
        """A conv like `conv` with zero slices after its own."""
        old = conv.weight.detach()
        shape: Any = (conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        wider = cls(in_chans, *shape, bias=conv.bias is not None, device="meta", dtype=old.dtype)
        zeros = old.new_zeros(conv.out_channels, in_chans - conv.in_channels, *conv.kernel_size)
        wider.weight = nn.Parameter(torch.cat([old, zeros], dim=1), requires_grad=conv.weight.requires_grad)
        wider.bias, wider.base_chans = conv.bias, conv.in_channels
        return wider.train(conv.training)

    def reset_identity(self) -> None:
        """Set the weights of the new channels to zero."""
        with torch.no_grad():
            self.weight[:, self.base_chans :] = 0
