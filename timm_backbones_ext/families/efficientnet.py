"""EfficientNet and EfficientNetV2: https://arxiv.org/abs/1905.11946, https://arxiv.org/abs/2104.00298."""

from typing import Any

from timm.models import EfficientNet

from .._timm import efficientnet_init_weights
from .._types import Model
from ..layers.split_norm_act import split
from .base import Family
from .layout import register

__all__ = ["EfficientNetFamily"]


@register
class EfficientNetFamily(Family):
    """Stages `blocks.0` and so on of MBConv and fused MBConv blocks."""

    name = "efficientnet"
    cls = EfficientNet
    smallest = "test_efficientnet"
    reference = "efficientnet_b0"

    def stages(self, model: Model) -> list[str]:
        """`blocks.0` and so on."""
        return [f"blocks.{stage}" for stage in range(len(model.blocks))]

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """timm's function, which goes through all modules."""
        efficientnet_init_weights(model)

    def repair(self, model: Model) -> None:
        """Take activations out of the batch norms, under the same keys: code that replaces norms keeps them then."""
        split(model)

    def canonical(self, model: Model) -> None:
        """Norms without activations, so that it does not matter whether the model's hold them."""
        split(model)
