"""ResNet, ResNeXt and Wide ResNet: https://arxiv.org/abs/1512.03385."""

from collections.abc import Iterator
from typing import Any

from timm.models import ResNet
from torch import nn

from .._types import Model
from .base import Family, Growth, Slot
from .layout import blocks, register

__all__ = ["ResNetFamily"]


@register
class ResNetFamily(Family):
    """Four stages `layer1` to `layer4` of basic or bottleneck blocks."""

    name = "resnet"
    cls = ResNet
    smallest = "test_resnet"
    reference = "resnet50"

    def stages(self, model: Model) -> list[str]:
        """`layer1` to `layer4`."""
        return ["layer1", "layer2", "layer3", "layer4"]

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """Use timm's `ResNet.init_weights`, with its arguments."""
        type(model).init_weights(model, *args, **kwargs)

    def last(self, block: Any) -> list[str]:
        """The last norm."""
        norm = "bn3" if hasattr(block, "bn3") else "bn2"
        return [f"{norm}.weight", f"{norm}.bias"]

    def wire(self, plan: Growth, model: Model) -> None:
        """Channels inside a block may grow, unless its convs have groups."""
        for name, block in blocks(model):
            if block.conv2.groups > 1:
                continue
            inner, second = f"inside {name}, first", f"inside {name}, second"
            plan.wire(name, conv1=("", inner), bn1=("", inner))
            if hasattr(block, "conv3"):
                plan.wire(name, conv2=(inner, second), bn2=("", second), conv3=(second, ""))
            else:
                plan.wire(name, conv2=(inner, ""))

    def slot(self, block: Any) -> Slot:
        """At the end of the residual branch, where timm puts attention."""
        last = block.conv3 if hasattr(block, "conv3") else block.conv2
        return Slot(block, "se", last.out_channels)

    def norm_after(self, model: Model, conv: str) -> Any:
        """`bn2` after `conv2`."""
        return model.get_submodule(conv.replace("conv", "bn"))

    def spatial_convs(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """All 3x3 convs of the blocks."""
        for place, block in blocks(model):
            for name, child in block.named_children():
                if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                    yield f"{place}.{name}", child
