"""timm's `norm_layer` argument, where timm 1.0.31 fails with what detection recipes give it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import GroupNorm

from ._types import Model
from .edits import Edit, parse_edits

__all__ = ["is_frozen", "translated"]


def is_frozen(norm_layer: Any) -> bool:
    """Whether a `norm_layer` is a frozen batch norm: its name, or a class (torchvision's, timm's, detectron2's)."""
    return _name(norm_layer).startswith("frozenbatchnorm")


def translated(
    kwargs: dict[str, Any], edits: tuple[Edit, ...], entry: Callable[..., Model]
) -> tuple[dict[str, Any], tuple[Edit, ...]]:
    """Arguments of a timm entry function, and edits, that make the model which `norm_layer` asks for.

    A frozen batch norm becomes the edit `frozen_bn`; `"groupnorm"` gets a number of groups that divides every width.

    Raises:
        ValueError: A frozen batch norm comes with arguments of its own.
    """
    norm_layer = kwargs.get("norm_layer")
    if is_frozen(norm_layer):
        if given := getattr(norm_layer, "keywords", None):
            raise ValueError(
                f"norm_layer: expected a frozen batch norm without arguments; got {given}. "
                "Give them to torch.nn.BatchNorm2d with functools.partial, and add edits='frozen_bn'"
            )
        frozen = () if any(item.name == "frozen_bn" for item in edits) else parse_edits("frozen_bn")
        return {key: value for key, value in kwargs.items() if key != "norm_layer"}, (*edits, *frozen)
    if isinstance(norm_layer, str) and _name(norm_layer) == "groupnorm":
        others = {key: value for key, value in kwargs.items() if key != "norm_layer"}
        return {**others, "norm_layer": functools.partial(GroupNorm, num_groups=_groups(entry, others))}, edits
    return kwargs, edits


def _name(norm_layer: Any) -> str:
    """A name as timm compares them, of a name, a class or a partial."""
    norm_layer = getattr(norm_layer, "func", norm_layer)
    name = norm_layer if isinstance(norm_layer, str) else getattr(norm_layer, "__name__", "")
    return name.replace("_", "").lower()


def _groups(entry: Callable[..., Model], kwargs: dict[str, Any], most: int = 32) -> int:
    """The largest divisor of 32, the usual number of groups, that divides the width of every norm."""
    with torch.device("meta"):
        model = entry(pretrained=False, **{**kwargs, "device": "meta"})
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    return math.gcd(most, *(norm.weight.numel() for norm in norms if getattr(norm, "weight", None) is not None))
