"""How timm lays out the model families that edits know: which class, which blocks, which first conv."""

from collections.abc import Iterator

from timm.models import VGG, ConvNeXt, EfficientNet, ResNet
from torch import nn

from .._types import Model

__all__ = ["FAMILIES", "blocks", "family_of", "first_conv"]

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


def blocks(model: Model, stages: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Names and residual blocks of a ResNet's stages, counted from 1 as in timm's `layer1` ... `layer4`."""
    for stage in stages:
        for index, block in enumerate(model.get_submodule(f"layer{stage}")):
            yield f"layer{stage}.{index}", block


def first_conv(model: Model) -> tuple[str, nn.Conv2d]:
    """Name and module of the conv that sees the image, as timm records it in the pretrained config.

    Raises:
        ValueError: The model has none, or more than one.
    """
    name = model.pretrained_cfg.get("first_conv")
    if not isinstance(name, str):
        raise ValueError(f"expected one first conv in the pretrained config of {type(model).__name__}; got {name!r}")
    return name, model.get_submodule(name)
