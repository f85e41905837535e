"""Frozen batch norms, which keep their statistics and affine parameters, as detectors use for small batches."""

from dataclasses import dataclass

from torch import nn

from ..layers import FROZEN, Added
from .base import Edit, register_edit

__all__ = ["FrozenBn"]


@register_edit(
    families=("resnet", "efficientnet", "vgg"),
    exact="eval",
    evidence="none: the usual recipe of detectors (Mask R-CNN, DETR), exact by construction in eval mode",
)
@dataclass(frozen=True)
class FrozenBn(Edit):
    """Freeze every batch norm of the base, torch's and timm's; keys stay the same, parameters become buffers.

    Norms that edits added stay trainable: a branch with a norm frozen at zero would add zero forever.
    """

    def apply(self, model: nn.Module) -> None:
        """Replace all batch norms."""
        added = {norm for module in model.modules() if isinstance(module, Added) for norm in module.modules()}
        norms = [(name, norm) for name, norm in model.named_modules() if type(norm) in FROZEN and norm not in added]
        if not norms:
            raise ValueError(f"frozen_bn: {type(model).__name__} has no trainable batch norm (left)")
        for name, norm in norms:
            model.set_submodule(name, FROZEN[type(norm)].replacing(norm))
