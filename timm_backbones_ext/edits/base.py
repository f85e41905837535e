"""The class of an edit, and the registry of edits.

An edit is a frozen dataclass whose fields are its arguments. To add an edit, add one file to this folder.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import ClassVar, TypeVar

from .._types import Model
from ..families import FAMILIES

__all__ = ["EDITS", "Edit", "list_edits", "register_edit"]


class EditTable(dict[str, type["Edit"]]):
    """Edits by name; notebooks show them as a table."""

    def _repr_html_(self) -> str:
        from ..console import html_table  # not needed to register

        rows = [(name, ", ".join(cls.families), cls.exact, cls.evidence) for name, cls in self.items()]
        return html_table(("edit", "families", "exact in", "evidence"), rows)


EDITS = EditTable()
"""The known edits, by name."""
EXACTNESS = ("eval", "eval+train")
"""Modes of a model in which an edit can be exact. `Edit.content` is the kind of images."""
EditT = TypeVar("EditT", bound="Edit")


class Edit:
    """One change of a model's architecture. Subclasses are frozen dataclasses with the decorator `register_edit`."""

    name: ClassVar[str]
    families: ClassVar[tuple[str, ...]]
    exact: ClassVar[str]
    """The modes in which the edited model equals its base: one of `EXACTNESS`."""
    evidence: ClassVar[str]
    example: ClassVar[str]
    """Text of the edit's simplest form: the name, with the arguments that are required."""
    multiple: ClassVar[int] = 1
    """The edited model equals its base for images whose sides, in pixels, are multiples of this."""
    sampling: ClassVar[bool] = False
    """The edited model gives maps of a smaller stride, which have the base's values at the base's positions."""
    maps_only: ClassVar[bool] = False
    """The edit changes the maps of `features_only` models and nothing else."""
    tried_on: ClassVar[dict[str, str]] = {}
    """Family -> architecture to test the edit on, if the edit cannot be applied to the family's smallest."""
    stated_on: ClassVar[dict[str, str]] = {}
    """Family -> architecture to state costs on, if the edit cannot be applied to the family's reference."""

    @property
    def content(self) -> str:
        """Images for which the edit is exact: "any", or "grey" for images whose channels are equal.

        For "grey", the edited model takes one channel; the base takes that channel repeated.
        """
        return "any"

    def apply(self, model: Model) -> None:
        """Replace modules of `model` so that it still computes what it computed before.

        Existing tensors are reused or replaced, never written to.

        Raises:
            ValueError: The model has no module that this edit can change.
        """
        raise NotImplementedError

    def reset_identity(self, model: Model) -> None:
        """Set the new tensors of this edit to the identity again, after another initialisation changed them."""
        for module in model.modules():
            if hasattr(module, "reset_identity"):
                module.reset_identity()

    def merge(self, model: Model) -> None:
        """Fold the new tensors into those of the base, which removes their cost; exact in eval mode.

        Tensors are replaced, never written to.

        Raises:
            ValueError: This edit cannot be merged.
        """
        raise ValueError(f"edit {self.name!r} cannot be merged; its cost stays")

    @classmethod
    def merges(cls) -> bool:
        """Whether `merge` can fold this edit into the base."""
        return cls.merge is not Edit.merge

    def __str__(self) -> str:
        """The edit as text: its name, with the arguments that differ from their defaults."""
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)  # ty: ignore[invalid-argument-type] every edit is a dataclass
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


def register_edit(*, families: Iterable[str], exact: str, evidence: str) -> Callable[[type[EditT]], type[EditT]]:
    """Register a dataclass as an edit; its name is the class name in snake case.

    Args:
        families: Names of the families that the edit can be applied to.
        exact: "eval" if the edited model equals its base in eval mode only, "eval+train" if in train mode too.
        evidence: The published gain and how it was trained (warm insertion, from scratch), or "none".

    Raises:
        ValueError: A family or `exact` is unknown, or another edit has the name.
    """
    families = tuple(families)
    if unknown := [family for family in families if family not in FAMILIES]:
        raise ValueError(f"unknown families {unknown}; known: {', '.join(FAMILIES)}")
    if exact not in EXACTNESS:
        raise ValueError(f"exact must be one of {EXACTNESS}; got {exact!r}")

    def register(cls: type[EditT]) -> type[EditT]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        held = EDITS.get(name)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"there is an edit {name!r} already, {held.__module__}.{held.__qualname__}; rename yours")
        cls.name, cls.families, cls.exact, cls.evidence = name, families, exact, evidence
        cls.example = vars(cls).get("example", name)
        EDITS[name] = cls
        return cls

    return register


def list_edits(family: str | None = None) -> list[str]:
    """Names of the known edits, sorted; `EDITS[name]` is the class.

    Args:
        family: Only edits for this family; all by default.

    Raises:
        ValueError: The family is unknown.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return sorted(name for name, cls in EDITS.items() if family is None or family in cls.families)
