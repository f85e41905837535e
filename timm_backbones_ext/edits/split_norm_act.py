"""Batch norms without timm's built-in activations, so that other libraries can replace them."""

from dataclasses import dataclass

from .._types import Model
from ..layers.split_norm_act import SplitEfficientNet, split
from .base import Edit, register_edit

__all__ = ["SplitNormAct"]


@register_edit(
    families=("efficientnet",),
    exact="eval+train",
    evidence="none: the same modules in another order; code that replaces batch norms keeps the activations",
)
@dataclass(frozen=True)
class SplitNormAct(Edit):
    """Split each `BatchNormAct2d` into a plain batch norm and an activation module; keys stay the same.

    Models of `ext_efficientnet*` and `ext_tf_efficientnet*` are built in this form and need no edit.
    """

    def apply(self, model: Model) -> None:
        """Split every batch norm that holds an activation."""
        if not split(model) and not isinstance(model, SplitEfficientNet):
            raise ValueError(f"split_norm_act: {type(model).__name__} has no batch norm that holds an activation")
