"""Facts on each variant for `timm-ext list` and the pages of the documentation."""

from collections.abc import Iterator
from dataclasses import dataclass

import timm
import torch
from timm.models import model_entrypoint

from ..edits import EDITS, parse_edits
from ..families import FAMILIES, family_of
from ..licences import allows_commercial_use
from ..names import licences, one_of
from ..registry import VARIANTS

__all__ = ["Listing", "describe_variant", "family_name", "listings"]

COMMERCIAL = "commercial"
"""Filter word for all licences that are known to allow commercial use."""


@dataclass(frozen=True)
class Listing:
    """One variant."""

    name: str
    family: str
    base: str
    edits: tuple[str, ...]
    tags: dict[str, str]
    """Tag -> licence of its weights."""


def family_name(base: str) -> str:
    """The family of an architecture; it is built, on the device `meta`, only if its module is not a family's module.

    Raises:
        ValueError: The architecture is of no known family.
    """
    module = model_entrypoint(base).__module__.rpartition(".")[2]
    for family in FAMILIES.values():
        if family.module == module:
            return family.name
    with torch.device("meta"):
        return family_of(timm.create_model(base)).name


def describe_variant(name: str) -> Listing:
    """The facts on one variant."""
    variant = VARIANTS[name]
    known = {family.module: family.name for family in FAMILIES.values()}
    family = known.get(variant.family) or family_name(variant.base)
    return Listing(name, family, variant.base, variant.edits, licences(name))


def listings(family: str | None = None, edit: str | None = None, licence: str | None = None) -> Iterator[Listing]:
    """All variants, or those that fit.

    Args:
        family: Only variants of this family.
        edit: Only variants with this edit.
        licence: Only variants that have a tag with this licence; "commercial" means all licences that are known to
            allow commercial use.

    Raises:
        ValueError: The family, edit or licence is unknown.
    """
    found = [describe_variant(name) for name in VARIANTS]
    one_of("family", family, FAMILIES)
    one_of("edit", edit, EDITS)
    there = {item for facts in found for item in facts.tags.values()}
    one_of("licence", licence, {COMMERCIAL, *there})
    wanted = set(filter(allows_commercial_use, there)) if licence == COMMERCIAL else {licence}
    for facts in found:
        edits = [item.name for item in parse_edits(facts.edits)]
        fits = family in (None, facts.family), edit in (None, *edits)
        if all(fits) and (licence is None or wanted & set(facts.tags.values())):
            yield facts
