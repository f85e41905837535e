"""How timm lays out the model families that edits know: which class, which blocks, which first conv."""

from collections.abc import Iterator
from typing import Any

from timm.layers.grn import GlobalResponseNorm
from timm.models import VGG, ConvNeXt, EfficientNet, ResNet, named_apply
from timm.models._efficientnet_builder import efficientnet_init_weights
from timm.models.convnext import ConvNeXtBlock
from timm.models.convnext import _init_weights as convnext_init_weights
from torch import nn

from .._types import Model

__all__ = ["FAMILIES", "blocks", "depthwise_convs", "family_of", "first_conv", "initialise"]

FAMILIES: dict[str, type[nn.Module]] = {
    "resnet": ResNet,
    "convnext": ConvNeXt,
    "efficientnet": EfficientNet,
    "vgg": VGG,
}


def family_of(model: Model) -> str:
    """The family that a full timm model belongs to.

    Raises:
        ValueError: The model is of no known family, or is a wrapper (features_only, DataParallel, compiled).
    """
    for name, cls in FAMILIES.items():
        if isinstance(model, cls):
            return name
    raise ValueError(
        f"expected a full timm model of one of the families {', '.join(FAMILIES)}; got {type(model).__name__}. "
        "Edit the full model first, then wrap it: timm.create_model(..., edits=[...], features_only=True)"
    )


def blocks(model: Model, stages: tuple[int, ...] | None = None) -> Iterator[tuple[str, Any]]:
    """Names and blocks of a model's stages, counted from 1 (timm's `layer1`, `stages.0`, `blocks.0`); all by default.

    Raises:
        ValueError: A stage that the model does not have, or one named twice.
    """
    containers = _stages(model)
    known = tuple(range(1, 1 + len(containers)))
    stages = known if stages is None else stages
    if not isinstance(stages, tuple) or not stages or not set(stages) <= set(known) or len(set(stages)) < len(stages):
        raise ValueError(f"stages must be some of {known}, each once; got {stages!r}")
    for stage in stages:
        name = containers[stage - 1]
        for index, block in enumerate(model.get_submodule(name)):
            yield f"{name}.{index}", block


def _stages(model: Model) -> list[str]:
    """Names of the sequences of blocks."""
    family = family_of(model)
    if family == "resnet":
        return ["layer1", "layer2", "layer3", "layer4"]
    if family == "convnext":
        return [f"stages.{stage}.blocks" for stage in range(len(model.stages))]
    if family == "efficientnet":
        return [f"blocks.{stage}" for stage in range(len(model.blocks))]
    raise ValueError(f"{family} has no blocks")


def depthwise_convs(model: Model, stages: tuple[int, ...] | None = None) -> Iterator[tuple[str, Any]]:
    """Names and modules of the depthwise convs in the blocks of a ConvNeXt or an EfficientNet."""
    for name, block in blocks(model, stages):
        if hasattr(block, "conv_dw"):
            yield f"{name}.conv_dw", block.conv_dw


def first_conv(model: Model) -> tuple[str, nn.Conv2d]:
    """Name and module of the conv that sees the image, as timm records it in the pretrained config.

    Raises:
        ValueError: The model has none, or more than one.
    """
    name = model.pretrained_cfg.get("first_conv")
    if not isinstance(name, str):
        raise ValueError(f"expected one first conv in the pretrained config of {type(model).__name__}; got {name!r}")
    return name, model.get_submodule(name)


def initialise(model: Model, *args: Any, **kwargs: Any) -> None:
    """Initialise a model as timm does when it makes one; complete after `to_empty()` too.

    timm has a method for it in ResNet alone, which takes the arguments; the others initialise in their constructor.
    """
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    family = family_of(model)
    if family == "resnet":
        type(model).init_weights(model, *args, **kwargs)
    elif family == "convnext":
        named_apply(convnext_init_weights, model)
        for module in model.modules():
            if isinstance(module, GlobalResponseNorm):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, ConvNeXtBlock) and module.gamma is not None:
                nn.init.constant_(module.gamma, 1e-6)  # timm's ls_init_value, which the model does not keep
    elif family == "efficientnet":
        efficientnet_init_weights(model)
    else:
        model._initialize_weights()
