"""The config.json of a saved backbone, read and checked before anything is built from it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timm.models import is_model

from .._version import __version__
from ..errors import HubError
from .files import CONFIG, HINT

__all__ = ["read_config"]

LARGEST = 100_000
"""No argument of a backbone counts more channels, blocks or classes ..."""
LARGEST_SUM = 10_000
"""... and no list of arguments, such as depths or widths, more in total."""


def read_config(path: Path, place: str) -> dict[str, Any]:
    """Read a config that names a model which this version may know; nothing is built.

    Raises:
        HubError: It is damaged, names an unknown architecture, or holds numbers that no backbone has.
    """
    if not path.is_file():
        raise HubError(f"{place} has no {path.name}: it is no timm model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"{place}: {path.name} is no JSON ({error}); nothing was loaded") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise HubError(f"{place}: {path.name} names no architecture: it is no timm model")
    architecture = config["architecture"].removesuffix(f".{HINT}").partition(".")[0]
    if not is_model(architecture):
        about = config.get("timm_backbones_ext")
        writer = about.get("version") if isinstance(about, dict) else None
        made = f"was saved by timm-backbones-ext {writer}; this is {__version__}" if writer else "is not in timm either"
        raise HubError(
            f"{place}: unknown architecture {architecture!r}. It {made}. Upgrade timm-backbones-ext and timm"
        )
    _require_sane(config, place)
    return config


def _require_sane(config: Mapping[str, Any], place: str) -> None:
    """Numbers that would build a model for hours are refused beforehand, and classes that are none or unnamed."""
    for branch in _branches(config):
        numbers = [abs(value) for value in _values(branch) if isinstance(value, (int, float))]
        found = [value for value in numbers if not value <= LARGEST]
        found += [sum(numbers)] if isinstance(branch, list) and not sum(numbers) <= LARGEST_SUM else []
        if found:
            raise HubError(
                f"{place}: {CONFIG} has {found[0]}, and no backbone has so many of anything; nothing was loaded"
            )
    classes, labels = config.get("num_classes", 0), config.get("label_names")
    if not isinstance(classes, int) or classes < 0:
        raise HubError(f"{place}: {CONFIG} has num_classes {classes!r}; expected 0 or more; nothing was loaded")
    if isinstance(labels, list) and len(labels) != classes:
        raise HubError(
            f"{place}: {CONFIG} has {len(labels)} label names; expected {classes}, one per class; nothing was loaded"
        )


def _branches(tree: Any) -> Iterator[Any]:
    """Every list and dict, those inside others included."""
    if isinstance(tree, (list, dict)):
        yield tree
        for value in _values(tree):
            yield from _branches(value)


def _values(branch: Any) -> list[Any]:
    return branch if isinstance(branch, list) else list(branch.values())
