"""Values of timm's argument `norm_layer` that detection recipes use and with which timm 1.0.31 fails."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import GroupNorm

from ._types import Model
from .edits import EDITS, Edit, parse_edits
from .families import FAMILIES, family_of
from .layers import synchronised

__all__ = ["is_runtime", "translated"]

Entry = Callable[..., Model]


def is_runtime(norm_layer: Any) -> bool:
    """Whether saved configs leave out a `norm_layer`: frozen norms are saved as an edit, synchronised ones as plain."""
    return _is_frozen(norm_layer) or _is_sync(norm_layer)


def _is_frozen(norm_layer: Any) -> bool:
    """Whether a `norm_layer` is a frozen batch norm: its name, or a class (torchvision's, timm's, detectron2's)."""
    return _name(norm_layer).startswith("frozenbatchnorm")


def _is_sync(norm_layer: Any) -> bool:
    """Whether a `norm_layer` is a synchronised batch norm: its name, or a class (torch's, timm's)."""
    return _name(norm_layer).startswith("syncbatchnorm")


def translated(
    entry: Entry, kwargs: dict[str, Any], edits: tuple[Edit, ...]
) -> tuple[Entry, dict[str, Any], tuple[Edit, ...]]:
    """Replace the argument `norm_layer` by an entry function, arguments and edits that make the same model.

    A frozen batch norm becomes the edit `frozen_bn`. Synchronised batch norms replace plain ones after the model is
    made, with activations as separate modules, so that the keys stay. `"groupnorm"` gets a number of groups that
    divides every width.

    Returns:
        The entry function, its arguments, and the edits.

    Raises:
        ValueError: A frozen or synchronised batch norm has arguments, or the family has no batch norm.
    """
    norm_layer = kwargs.get("norm_layer")
    others = {key: value for key, value in kwargs.items() if key != "norm_layer"}
    if is_runtime(norm_layer):
        _check(entry, norm_layer)
        if _is_sync(norm_layer):
            return _then_synchronised(entry), others, edits
        frozen = () if any(item.name == "frozen_bn" for item in edits) else parse_edits("frozen_bn")
        return entry, others, (*edits, *frozen)
    if isinstance(norm_layer, str) and _name(norm_layer) == "groupnorm":
        norm_layer = functools.partial(GroupNorm, num_groups=_groups(entry, others))
        return entry, {**others, "norm_layer": norm_layer}, edits
    return entry, kwargs, edits


def _check(entry: Entry, norm_layer: Any) -> None:
    kind = "frozen" if _is_frozen(norm_layer) else "synchronised"
    if given := getattr(norm_layer, "keywords", None):
        then = "add edits='frozen_bn'" if kind == "frozen" else "call tbx.convert_sync_batchnorm(model)"
        raise ValueError(
            f"norm_layer: expected a {kind} batch norm without arguments; got {given}. "
            f"Give them to torch.nn.BatchNorm2d with functools.partial, and {then}"
        )
    module = entry.__module__.rpartition(".")[2]
    family = next((family.name for family in FAMILIES.values() if family.module == module), None)
    if family is not None and family not in EDITS["frozen_bn"].families:
        name = getattr(entry, "__name__", family)
        raise ValueError(
            f"norm_layer: {name} has layer norms and no batch norm, so there is none to be {kind}. Leave "
            "norm_layer out; layer norms do not depend on the batch. tbx.freeze_at(model, n) freezes the first stages"
        )


def _then_synchronised(entry: Entry) -> Entry:
    """An entry function whose models have synchronised batch norms, with activations as separate modules."""

    @functools.wraps(entry)
    def made(**kwargs: Any) -> Model:
        model = entry(**kwargs)
        family_of(model).repair(model)
        return synchronised(model)

    return made


def _name(norm_layer: Any) -> str:
    """The name of a `norm_layer` given as text, class or partial, in the form in which timm compares names."""
    norm_layer = getattr(norm_layer, "func", norm_layer)
    name = norm_layer if isinstance(norm_layer, str) else getattr(norm_layer, "__name__", "")
    return name.replace("_", "").lower()


def _groups(entry: Entry, kwargs: dict[str, Any], most: int = 32) -> int:
    """The largest divisor of 32, the usual number of groups, that divides the width of every norm."""
    with torch.device("meta"):
        model = entry(pretrained=False, **{**kwargs, "device": "meta"})
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    return math.gcd(most, *(norm.weight.numel() for norm in norms if getattr(norm, "weight", None) is not None))
