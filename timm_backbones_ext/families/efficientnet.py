"""EfficientNet and EfficientNetV2: https://arxiv.org/abs/1905.11946, https://arxiv.org/abs/2104.00298."""

from collections.abc import Iterator
from typing import Any

from timm.models import EfficientNet
from torch import nn

from .._timm import efficientnet_init_weights
from .._types import Model
from ..layers import Added
from ..layers.split_norm_act import split
from .base import Family, Growth, Slot, Widths
from .layout import blocks, register

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
        """Use timm's function, which initialises all modules."""
        efficientnet_init_weights(model)

    def last(self, block: Any) -> list[str]:
        """The last norm."""
        norm = next(name for name in ("bn3", "bn2", "bn1") if hasattr(block, name))
        return [f"{norm}.weight", f"{norm}.bias"]

    def wire(self, plan: Growth, model: Model) -> None:
        """All channels may grow: in the stem, between blocks, inside blocks and in the head."""
        stream = "stem"
        plan.widths |= {"conv_stem": Widths("", stream), "bn1": Widths("", stream)}
        for name, block in blocks(model):
            stage = f"stage {name.split('.')[1]}"
            self._wire_block(plan, name, block, stream, stage)
            stream = stage
        plan.widths |= {"conv_head": Widths(stream, "head"), "bn2": Widths("", "head")}
        plan.widths[model.pretrained_cfg["classifier"]] = Widths("head", "")

    def _wire_block(self, plan: Growth, name: str, block: Any, before: str, after: str) -> None:
        inner, squeezed = f"inside {name}", f"squeezed in {name}"
        if hasattr(block, "conv_exp"):
            plan.wire(name, conv_exp=(before, inner), bn1=("", inner), conv_pwl=(inner, after), bn2=("", after))
        elif hasattr(block, "conv_pwl"):
            plan.wire(name, conv_pw=(before, inner), bn1=("", inner), conv_dw=("", inner), bn2=("", inner))
            plan.wire(name, conv_pwl=(inner, after), bn3=("", after))
        elif hasattr(block, "conv_pw"):
            inner = before
            plan.wire(name, conv_dw=("", inner), bn1=("", inner), conv_pw=(inner, after), bn2=("", after))
        else:
            plan.wire(name, conv=(before, after), bn1=("", after))
        if hasattr(getattr(block, "se", None), "conv_reduce"):
            plan.wire(name, se__conv_reduce=(inner, squeezed), se__conv_expand=(squeezed, inner))

    def slot(self, block: Any) -> Slot | None:
        """After the depthwise conv, or after the dense conv of a fused block; None if the block has its own SE."""
        conv = getattr(block, "conv_dw", None) or getattr(block, "conv_exp", None)
        if conv is None or not isinstance(block.se, (nn.Identity, Added)):
            return None
        return Slot(block, "se", conv.out_channels)

    def spatial_convs(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """The depthwise conv of each block; the dense one of a fused block."""
        for place, block in blocks(model):
            for name in ("conv_dw", "conv_exp", "conv"):
                if hasattr(block, name):
                    yield f"{place}.{name}", getattr(block, name)

    def norm_after(self, model: Model, conv: str) -> Any:
        """The second norm after a depthwise conv that has an expansion before it; otherwise the first."""
        place, _, name = conv.rpartition(".")
        block: Any = model.get_submodule(place)
        return block.bn2 if name == "conv_dw" and hasattr(block, "bn3") else block.bn1

    def repair(self, model: Model) -> None:
        """Split batch norms from their activations, with the same keys, so that replacing norms keeps activations."""
        split(model)

    def canonical(self, model: Model) -> None:
        """Split batch norms from their activations, so that both forms give the same fingerprint."""
        split(model)
