"""Look up parts of a live model: its family, blocks, layers, depthwise convs and first conv."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from .._types import Model
from ..layers import Added
from .base import Family

__all__ = ["FAMILIES", "blocks", "depthwise_convs", "family_of", "first_conv", "initialise", "layers", "register"]

FAMILIES: dict[str, Family] = {}
"""The families, by name."""


def register(cls: type[Family]) -> type[Family]:
    """Add a family to `FAMILIES`; a class decorator."""
    FAMILIES[cls.name] = cls()
    return cls


def family_of(model: Model) -> Family:
    """The family that a full timm model belongs to.

    Raises:
        ValueError: The model belongs to no known family, or is a wrapper (features_only, DataParallel, compiled).
    """
    for family in FAMILIES.values():
        if isinstance(model, family.cls):
            return family
    raise ValueError(
        f"expected a full timm model of one of the families {', '.join(FAMILIES)}; got {type(model).__name__}. "
        "Edit the full model first, then wrap it: timm.create_model(..., edits=[...], features_only=True)"
    )


def blocks(model: Model, stages: tuple[int, ...] | None = None) -> Iterator[tuple[str, Any]]:
    """Names and modules of the blocks in a model's stages.

    Args:
        model: A full timm model.
        stages: Numbers of stages, from 1 (timm's `layer1`, `stages.0`, `blocks.0`); all by default.

    Raises:
        ValueError: The model has no such stage, or a stage is given twice.
    """
    containers = family_of(model).stages(model)
    for stage in _chosen(stages, len(containers)):
        name = containers[stage - 1]
        for index, block in enumerate(model.get_submodule(name)):
            yield f"{name}.{index}", block


def _chosen(stages: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    known = tuple(range(1, 1 + count))
    stages = known if stages is None else stages
    if not isinstance(stages, tuple) or not stages or not set(stages) <= set(known) or len(set(stages)) < len(stages):
        raise ValueError(f"stages must be some of {known}, each once; got {stages!r}")
    return stages


def layers(model: Model, stages: tuple[int, ...] | None = None) -> Iterator[tuple[str, Any]]:
    """Names and modules of the convs and linear layers in a model's stages, without those of gates and of edits.

    Raises:
        ValueError: The model has no such stage, or a stage is given twice.
    """
    sections = family_of(model).sections(model)
    for stage in _chosen(stages, len(sections)):
        for name in sections[stage - 1]:
            yield from _weighted(name, model.get_submodule(name))


def _weighted(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Convs and linear layers in a module; the search does not enter a layer, a gate or a module that an edit added."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        yield name, module
    elif not isinstance(module, Added) and name.rpartition(".")[2] != "se":
        for child, inner in module.named_children():
            yield from _weighted(f"{name}.{child}", inner)


def depthwise_convs(model: Model, stages: tuple[int, ...] | None = None) -> Iterator[tuple[str, Any]]:
    """Names and modules of the depthwise convs in the blocks of a ConvNeXt or an EfficientNet."""
    for name, block in blocks(model, stages):
        if hasattr(block, "conv_dw"):
            yield f"{name}.conv_dw", block.conv_dw


def first_conv(model: Model) -> tuple[str, nn.Conv2d]:
    """Name and module of the first conv, as timm's pretrained config names it.

    Raises:
        ValueError: The config names none, or more than one.
    """
    name = model.pretrained_cfg.get("first_conv")
    if not isinstance(name, str):
        raise ValueError(f"expected one first conv in the pretrained config of {type(model).__name__}; got {name!r}")
    return name, model.get_submodule(name)


def initialise(model: Model, *args: Any, **kwargs: Any) -> None:
    """Initialise all tensors of a model as timm's constructor does, also after `to_empty()`."""
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    family_of(model).initialise(model, *args, **kwargs)
