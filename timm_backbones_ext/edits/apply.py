"""Apply edits to a live model and merge them again; if one fails, the model is unchanged."""

import copy
from collections.abc import Callable
from typing import Any

from .._types import Model
from ..families import family_of, initialise
from .base import EDITS, Edit
from .lineage import Lineage
from .text import parse_edits

__all__ = ["apply_edits", "edit", "merge"]


def edit(model: Model, *edits: "str | Edit") -> Model:
    """Apply edits to a live timm model, in place; it still computes what it computed before.

    Args:
        model: A full timm model of a known family, pretrained or not.
        edits: Edits, or their texts: `"dcn(stages=[3, 4])"`.

    Returns:
        The same model; `model.edits` holds the texts of all edits applied to it so far. State dicts of the model before
        the edits, or after some of them, still load into it.

    Raises:
        ValueError: An edit is unknown, is for another family or cannot be applied; the model is then unchanged.
    """
    parsed = _checked(model, parse_edits(edits))
    _rehearse(model, [item.apply for item in parsed])
    return apply_edits(model, parsed)


def apply_edits(model: Model, edits: tuple[Edit, ...]) -> Model:
    """Apply edits without a dry run, for a model that no caller holds: an error leaves it half edited.

    Raises:
        ValueError: An edit is for another family or cannot be applied.
    """
    lineage = Lineage.of(model) if edits else None
    for item in _checked(model, edits):
        item.apply(model)
    if lineage is not None:
        Lineage(lineage.base, (*lineage.edits, *edits)).attach(model)
    model.edits = (*getattr(model, "edits", ()), *map(str, edits))
    model.init_weights = IdentityInit(model)
    return model


def _checked(model: Model, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """The edits, if all of them are for the model's family."""
    family = family_of(model).name
    for item in edits:
        if family not in item.families:
            known = ", ".join(sorted(name for name, cls in EDITS.items() if family in cls.families))
            raise ValueError(f"edit {item.name!r} is for {', '.join(item.families)}, not {family}; there is: {known}")
    return edits


def merge(model: Model, *names: str) -> Model:
    """Fold edits of a model into the tensors of its base, in place; in eval mode its outputs stay the same.

    Args:
        model: An edited model.
        names: Names of edits, such as "rep"; by default all edits that can be merged.

    Returns:
        The same model; `model.edits` no longer lists the merged edits.

    Raises:
        ValueError: The model has no such edit, or it cannot be merged; the model is then unchanged.
    """
    applied = parse_edits(getattr(model, "edits", ()))
    if missing := [name for name in names if name not in {item.name for item in applied}]:
        raise ValueError(f"the model has no edit {missing[0]!r}; it has: {', '.join(map(str, applied)) or 'none'}")
    chosen = [item for item in applied if (item.name in names if names else item.merges())]
    _rehearse(model, [item.merge for item in chosen])
    for item in chosen:
        item.merge(model)
    kept = tuple(item for item in applied if item not in chosen)
    model.edits = tuple(map(str, kept))
    if hasattr(model, "lineage"):
        Lineage(model.lineage.base, kept).attach(model)
    return model


def _rehearse(model: Model, steps: "list[Callable[[Model], None]]") -> None:
    """Dry-run steps on a copy that shares all tensors, so that a failing step changes nothing."""
    if steps:
        twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
        for step in steps:
            step(twin)


class IdentityInit:
    """`model.init_weights()` of an edited model: initialise all tensors as timm does, then reset edits to the identity.

    timm's initialisation alone would give the convs and norms of edits random values.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        initialise(self.model, *args, **kwargs)
        for item in parse_edits(self.model.edits):
            item.reset_identity(self.model)
