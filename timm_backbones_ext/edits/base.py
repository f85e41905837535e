"""The class of an edit, and the registry of edits.

An edit is a frozen dataclass whose fields are its arguments. Adding an edit is adding one file to this folder.
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
"""Modes of a model in which an edit can be exact. `Edit.content` says for which images."""
EditT = TypeVar("EditT", bound="Edit")


class Edit:
    """One change of what a model is. Subclasses are frozen dataclasses made known by `register_edit`."""

    name: ClassVar[str]
    families: ClassVar[tuple[str, ...]]
    exact: ClassVar[str]
    """The modes in which the edited model equals its base: one of `EXACTNESS`."""
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
    stated_on: ClassVar[dict[str, str]] = {}
    """By family, the architecture to state costs on, where the reference has nothing to edit."""

    @property
    def content(self) -> str:
        """Images for which the edit is exact: "any", or "grey" for images whose channels are equal.

        For "grey", the edited model takes one channel and the base takes it repeated.
        """
        return "any"

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
        raise ValueError(f"edit {self.name!r} cannot be merged; its cost stays")

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


def register_edit(*, families: Iterable[str], exact: str, evidence: str) -> Callable[[type[EditT]], type[EditT]]:
    """Make a dataclass known as an edit under the snake-case form of its class name.

    Args:
        families: Names of the families that the edit can be applied to.
        exact: "eval" if the edited model equals its base in eval mode only, "eval+train" if in train mode too.
        evidence: The published gain and its route (warm insertion, from scratch), or "none".

    Raises:
        ValueError: An unknown family or exactness, or the name is that of another edit.
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
    """Names of the known edits, sorted; those of one family if it is given. `EDITS[name]` is the class.

    Raises:
        ValueError: An unknown family.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return sorted(name for name, cls in EDITS.items() if family is None or family in cls.families)
