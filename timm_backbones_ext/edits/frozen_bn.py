"""Batch norms that keep their statistics and affine parameters, as detectors fine-tune a backbone in small batches."""

from dataclasses import dataclass

from torch import nn

from ..layers import FrozenBatchNorm2d
from . import Edit, edit_class

__all__ = ["FrozenBn"]


@edit_class(
    families=("resnet", "efficientnet", "vgg"),
    exact="eval",
    evidence="none: the usual recipe of detectors (Mask R-CNN, DETR), exact by construction in eval mode",
)
@dataclass(frozen=True)
class FrozenBn(Edit):
    """Every `nn.BatchNorm2d` frozen; the keys stay, parameters become buffers."""

    def apply(self, model: nn.Module) -> None:
        """Replace all plain batch norms."""
        norms = [(name, module) for name, module in model.named_modules() if type(module) is nn.BatchNorm2d]
        if not norms:
            raise ValueError(f"frozen_bn: {type(model).__name__} has no plain nn.BatchNorm2d (left)")
        for name, norm in norms:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, FrozenBatchNorm2d.replacing(norm))
