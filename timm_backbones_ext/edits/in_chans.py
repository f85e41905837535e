"""Another number of input channels that keeps what the pretrained model computes."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .._types import Model
from ..families import FAMILIES, first_conv
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["InChans", "channels_as_edit"]

RGB = 3
"""Input channels of every base without an argument."""


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


def channels_as_edit(
    kwargs: dict[str, Any], edits: tuple[Edit, ...], held: int | None
) -> tuple[dict[str, Any], tuple[Edit, ...]]:
    """Arguments of a timm entry function and edits, with timm's argument `in_chans` as the edit.

    timm would repeat and rescale the pretrained weights, so that the model computes something else. Two channels are
    left to timm where no weights of another number are loaded. Weights of more channels than the base's come from a
    model with this edit, which is then one of the edits here, too.

    Args:
        kwargs: Arguments of the entry function.
        edits: Edits of the model.
        held: Channels of the weights to load; None for a model without them.
    """
    wanted = kwargs.get("in_chans")
    if wanted == 2 and held in (2, None):
        return kwargs, edits
    others = {key: value for key, value in kwargs.items() if key != "in_chans"}
    asked = [item.n for item in edits if isinstance(item, InChans)]
    if wanted not in (None, asked[-1] if asked else RGB):
        edits, asked = (*edits, InChans(wanted)), [*asked, wanted]
    if held is not None and asked and asked[0] > held > RGB:
        edits = (InChans(held), *edits)
    return others, edits
