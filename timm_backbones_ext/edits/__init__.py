"""Edits: changes to a live timm model that start as the identity.

An edit is a frozen dataclass whose fields are its arguments. It is written as a call with literal arguments,
`dcn(stages=[3, 4])`, which is also how it is stored in a model's config.json. Adding an edit is adding one file here.
"""

import ast
import copy
import dataclasses
import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from .._types import Model
from .families import FAMILIES, family_of, initialise

__all__ = ["EDITS", "Edit", "edit", "edit_class", "list_edits", "merge", "parse"]

EDITS: dict[str, type["Edit"]] = {}
EXACTNESS = ("eval", "eval+train")
EditT = TypeVar("EditT", bound="Edit")


class Edit:
    """One change of what a model is. Subclasses are frozen dataclasses made known by `edit_class`."""

    name: ClassVar[str]
    families: ClassVar[tuple[str, ...]]
    exact: ClassVar[str]
    evidence: ClassVar[str]
    example: ClassVar[str]
    """The edit in its simplest form; the name alone, unless an argument is required."""
    multiple: ClassVar[int] = 1
    """Sides of images, in pixels, have to be multiples of this for the edited model to equal its base."""
    sampling: ClassVar[bool] = False
    """The edited model gives maps of a smaller stride, which hold the base's values at the base's positions."""

    maps_only: ClassVar[bool] = False
    """The edit changes the maps of `features_only` models and nothing else."""
    tried_on: ClassVar[dict[str, str]] = {}
    """By family, the architecture to test the edit on, where the smallest member has nothing to edit."""

    def apply(self, model: Model) -> None:
        """Replace modules of `model` so that it computes what it computed before.

        Tensors that exist already are reused or replaced, never written to.

        Raises:
            ValueError: The model lacks what this edit changes.
        """
        raise NotImplementedError

    def reset_identity(self, model: Model) -> None:
        """Set the new tensors of this edit back to the identity, after an initialisation that touched them."""
        for module in model.modules():
            if hasattr(module, "reset_identity"):
                module.reset_identity()

    def merge(self, model: Model) -> None:
        """Fold the new tensors into those of the base, so that they and their cost are gone; exact in eval mode.

        Tensors are replaced, never written to.

        Raises:
            ValueError: This edit has no such form.
        """
        raise ValueError(f"edit {self.name!r} cannot be merged; it goes on costing what it costs")

    @classmethod
    def merges(cls) -> bool:
        """Whether `merge` can fold this edit into the base."""
        return cls.merge is not Edit.merge

    def __str__(self) -> str:
        """The edit as it is written: its name, with the arguments that differ from the defaults."""
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # ty: ignore[invalid-argument-type] every edit is a dataclass
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


def edit_class(*, families: Iterable[str], exact: str, evidence: str) -> Callable[[type[EditT]], type[EditT]]:
    """Make a dataclass known as an edit under the snake-case form of its class name.

    Args:
        families: Keys of `FAMILIES` that the edit can be applied to.
        exact: "eval" if the edited model equals its base in eval mode only, "eval+train" if in train mode too.
        evidence: The published gain and its route (warm insertion, from scratch), or "none".
    """
    families = tuple(families)
    if unknown := [family for family in families if family not in FAMILIES]:
        raise ValueError(f"unknown families {unknown}; known: {', '.join(FAMILIES)}")
    if exact not in EXACTNESS:
        raise ValueError(f"exact must be one of {EXACTNESS}; got {exact!r}")

    def register(cls: type[EditT]) -> type[EditT]:
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        cls.families, cls.exact, cls.evidence = families, exact, evidence
        cls.example = vars(cls).get("example", cls.name)
        EDITS[cls.name] = cls
        return cls

    return register


def parse(edits: "str | Edit | Iterable[str | Edit] | None") -> tuple[Edit, ...]:
    """Read edits from text: `"dcn"`, `"dcn(stages=[3, 4])"`, `"dcn, frozen_bn"`, or any iterable of such and of edits.

    Raises:
        ValueError: The text is not a call with literal arguments, or names an unknown edit or argument.
    """
    if edits is None:
        return ()
    if isinstance(edits, Edit):
        return (edits,)
    if not isinstance(edits, str):
        return tuple(edit for item in edits for edit in parse(item))
    try:
        tree = ast.parse(edits.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read edit {edits!r}; write it as a call: dcn(stages=[3, 4])") from error
    return tuple(_read(node, edits) for node in (tree.elts if isinstance(tree, ast.Tuple) else [tree]))


def _read(node: ast.expr, text: str) -> Edit:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not isinstance(call.func, ast.Name):
        raise ValueError(f"cannot read edit {text!r}; write it as a call: dcn(stages=[3, 4])")
    cls = EDITS.get(call.func.id)
    if cls is None:
        close = difflib.get_close_matches(call.func.id, EDITS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no edit {call.func.id!r}{hint} Known edits: {', '.join(sorted(EDITS))}")
    try:
        args = [_literal(arg) for arg in call.args]
        kwargs = {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    except ValueError as error:
        raise ValueError(f"edit {text!r} takes literal arguments only (numbers, strings, lists)") from error
    try:
        return cls(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(cls)) or "none"  # ty: ignore[invalid-argument-type]
        raise ValueError(f"edit {text!r}: {error}. Arguments of {cls.name!r}: {known}") from error


def _literal(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    return tuple(value) if isinstance(value, list) else value


def edit(model: Model, *edits: "str | Edit") -> Model:
    """Apply edits to a live timm model, in place; it goes on computing what it computed.

    Args:
        model: A full timm model of a known family, pretrained or not.
        edits: Edits, or their texts: `"dcn(stages=[3, 4])"`.

    Returns:
        The same model; `model.edits` holds the texts of all edits applied to it so far.

    Raises:
        ValueError: An edit is unknown, is of another family or cannot be applied; the model is then unchanged.
    """
    parsed, family = parse(edits), family_of(model)
    for item in parsed:
        if family not in item.families:
            known = ", ".join(sorted(name for name, cls in EDITS.items() if family in cls.families))
            raise ValueError(f"edit {item.name!r} is for {', '.join(item.families)}, not {family}; there is: {known}")
    _rehearsed(model, [item.apply for item in parsed])
    model.edits = (*getattr(model, "edits", ()), *map(str, parsed))
    model.init_weights = IdentityInit(model)
    return model


def merge(model: Model, *names: str) -> Model:
    """Fold edits of a model into the tensors of its base, in place; in eval mode it goes on computing what it computed.

    Args:
        model: An edited model.
        names: Names of edits, such as "rep"; all that can be merged by default.

    Returns:
        The same model, with `model.edits` without those merged.

    Raises:
        ValueError: The model has no such edit, or it cannot be merged; the model is then unchanged.
    """
    applied = parse(getattr(model, "edits", ()))
    if missing := [name for name in names if name not in {item.name for item in applied}]:
        raise ValueError(f"the model has no edit {missing[0]!r}; it has: {', '.join(map(str, applied)) or 'none'}")
    chosen = [item for item in applied if (item.name in names if names else item.merges())]
    _rehearsed(model, [item.merge for item in chosen])
    model.edits = tuple(str(item) for item in applied if item not in chosen)
    return model


def _rehearsed(model: Model, steps: "list[Callable[[Model], None]]") -> None:
    """Take steps on a twin that shares all tensors, then on the model: one that cannot be taken fails on the twin."""
    if not steps:
        return
    twin = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    for target in (twin, model):
        for step in steps:
            step(target)


class IdentityInit:
    """`model.init_weights()` of an edited model: initialise everything afresh, then set every edit to the identity.

    timm's initialisation knows convs and norms but not that a new one must start as the identity.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        initialise(self.model, *args, **kwargs)
        for item in parse(self.model.edits):
            item.reset_identity(self.model)


def list_edits(family: str | None = None) -> list[type[Edit]]:
    """The known edits, by name; those of one family if it is given."""
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return [cls for _, cls in sorted(EDITS.items()) if family is None or family in cls.families]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
