"""Batch norms that keep their statistics and affine parameters, as detectors fine-tune a backbone in small batches."""

from dataclasses import dataclass

from torch import nn

from ..layers import FROZEN
from . import Edit, edit_class

__all__ = ["FrozenBn"]


@edit_class(
    families=("resnet", "efficientnet", "vgg"),
    exact="eval",
    evidence="none: the usual recipe of detectors (Mask R-CNN, DETR), exact by construction in eval mode",
)
@dataclass(frozen=True)
class FrozenBn(Edit):
    """Every batch norm frozen, torch's and timm's; the keys stay, parameters become buffers."""

    def apply(self, model: nn.Module) -> None:
        """Replace all batch norms."""
        norms = [(name, module) for name, module in model.named_modules() if type(module) in FROZEN]
        if not norms:
            raise ValueError(f"frozen_bn: {type(model).__name__} has no batch norm (left) that trains")
        for name, norm in norms:
            model.set_submodule(name, FROZEN[type(norm)].replacing(norm))
