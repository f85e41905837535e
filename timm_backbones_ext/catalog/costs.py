"""The cost of an edit on a named base: parameters and multiply-adds are computed, times come from the benchmark."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import timm
import torch

from ..edits import EDITS, Edit, list_edits, parse_edits
from ..edits import edit as edit_model
from ..families.layout import FAMILIES
from .description import describe_model

__all__ = ["RATIOS", "Cost", "applicable", "cost", "measured", "named_base"]

RATIOS = Path(__file__).with_suffix(".json")
"""Written by `benchmarks/edits.py`."""


@dataclass(frozen=True)
class Cost:
    """The cost that an edit adds to a base."""

    base: str
    params: int
    gmacs: float
    """1e9 multiply-adds at the base's input size."""
    time_ratio: float | None
    """Time of a forward pass, edited over plain, on the CPU of the benchmark; None if not measured."""
    merges: bool
    """Whether `merge` removes the cost."""


def named_base(item: Edit, family: str | None = None) -> str:
    """The base for the cost of an edit: of the given family, or of the first family of the edit."""
    family = family or ("resnet" if "resnet" in item.families else item.families[0])
    return item.stated_on.get(family, FAMILIES[family].reference)


def cost(edit: str | Edit, base: str | None = None) -> Cost:
    """The cost of an edit in its simplest form.

    Args:
        edit: An edit, or its text.
        base: timm architecture; the one of `named_base` by default.

    Raises:
        ValueError: The edit cannot be applied to the base.
    """
    (item,) = parse_edits(edit)
    base = base or named_base(item)
    plain, edited = _figures(base, None), _figures(base, str(item))
    return Cost(base, edited[0] - plain[0], edited[1] - plain[1], measured(base, item), item.merges())


def measured(base: str, edit: str | Edit) -> float | None:
    """Time of a forward pass, edited over plain, on the CPU of the benchmark; None if it was not measured."""
    return _ratios().get(f"{base} + {edit}", {}).get("time_ratio")


def applicable(base: str) -> list[type[Edit]]:
    """The edits that can be applied, in their simplest form, to a timm architecture."""

    def fits(item: type[Edit]) -> bool:
        try:
            cost(item.example, base)
        except ValueError:
            return False
        return True

    return [EDITS[name] for name in list_edits() if fits(EDITS[name])]


@cache
def _figures(base: str, edit: str | None) -> tuple[int, float]:
    with torch.device("meta"):
        facts = describe_model(edit_model(timm.create_model(base), *parse_edits(edit)))
    return facts.params, facts.gmacs


@cache
def _ratios() -> dict[str, dict[str, float]]:
    """The results of the benchmark: "base + edit" -> its figures; empty if the file is missing."""
    return json.loads(RATIOS.read_text(encoding="utf-8"))["edits"] if RATIOS.is_file() else {}
