"""Base class of the attention edits, which puts a gate into each block."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .._types import Model
from ..families import blocks, family_of
from .base import Edit

__all__ = ["Attention"]


@dataclass(frozen=True)
class Attention(Edit):
    """A gate per block: at the end of a ResNet's residual branch, after the depthwise conv in other families.

    Blocks of an EfficientNet that already have squeeze and excitation get no gate.
    """

    stages: tuple[int, ...] | None = None

    layer: ClassVar[Any]
    """Makes a gate; takes the number of channels, `device` and `dtype`."""

    def apply(self, model: Model) -> None:
        """Put a gate into every block of the stages; into all blocks by default."""
        family = family_of(model)
        slots = [(name, block, family.slot(block)) for name, block in blocks(model, self.stages)]
        if not any(slot for _, _, slot in slots):
            raise ValueError(f"{self.name}: every block of the stages already has attention, or has no place for it")
        for name, block, slot in slots:
            if slot is None:
                continue
            owner, attribute, channels = slot
            self._check_free(f"{name}.{attribute}", getattr(owner, attribute, None))
            weight = next(block.parameters())
            gate = self.layer(channels, device=weight.device, dtype=weight.dtype)
            setattr(owner, attribute, gate.train(block.training))

    def _check_free(self, place: str, found: Any) -> None:
        if found is not None and not isinstance(found, nn.Identity):
            raise ValueError(
                f"{self.name}: expected no attention at {place}; found {type(found).__name__}. "
                "Two attention edits cannot share a block: give each its own stages"
            )
