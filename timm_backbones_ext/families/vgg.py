"""VGG: https://arxiv.org/abs/1409.1556."""

from collections.abc import Iterator
from typing import Any

from timm.models import VGG
from torch import nn

from .._types import Model
from .base import Family
from .layout import register

__all__ = ["VggFamily"]


@register
class VggFamily(Family):
    """One sequence `features` of 3x3 convs without shortcuts."""

    name = "vgg"
    cls = VGG
    smallest = "vgg11_bn"
    slim = {"mlp_ratio": 1 / 64}  # nine tenths of a VGG are the first layer of its classifier
    reference = "vgg16_bn"

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """timm's own method."""
        model._initialize_weights()

    def convs_3x3(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """All convs of `features`."""
        for name, child in model.features.named_children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                yield f"features.{name}", child
