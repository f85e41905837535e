"""Another number of input channels, with the function of the pretrained model kept."""

from dataclasses import dataclass
from typing import Any, ClassVar

from .._types import Model
from ..families import FAMILIES, first_conv
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["InChans", "channels_as_edit"]

RGB = 3
"""Default number of input channels of every base."""


@register_edit(families=tuple(FAMILIES), exact="eval+train", evidence="none: exact for any content of the new channels")
@dataclass(frozen=True)
class InChans(Edit):
    """`n` input channels. Added channels come after those of the base and start with zero weights.

    With `n=1` the channel gets the sum of the base's weights, which is exact for grey images (equal channels). `n=2`
    for a base of three channels cannot be exact and raises an error. `timm.create_model("ext_...", in_chans=n)` applies
    this edit.
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
        """Change the first conv; a model that already has `n` channels stays the same."""
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
    """Turn timm's argument `in_chans` into this edit.

    timm would repeat and rescale the pretrained weights, which changes what the model computes. Two channels are left
    to timm unless weights with another number of channels are loaded. Weights with more channels than the base come
    from a model with this edit, so the edit is added for them too.

    Args:
        kwargs: Arguments of the entry function.
        edits: Edits of the model.
        held: Channels of the weights to load; None if no weights are loaded.

    Returns:
        The arguments and the edits.
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
