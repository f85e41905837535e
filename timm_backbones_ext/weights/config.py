"""Read and check the config.json of a saved backbone before a model is built from it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from timm.models import is_model

from .._version import __version__
from ..errors import HubError
from .arguments import allowed_arguments
from .delta import delta_of
from .files import CONFIG, HINT

__all__ = ["LARGEST_CONFIG", "read_config"]

LARGEST_CONFIG = 4_000_000
"""Bytes; a config with the names and descriptions of 21,843 classes has 2,500,000."""
LARGEST = 100_000
"""The largest number in a config, such as a number of classes."""
LARGEST_SUM = 10_000
"""The largest sum of a list of numbers, such as depths or widths."""
LARGEST_ARGUMENT = 10_000
"""The largest argument of a model, such as a width."""
LARGEST_SIDE = 2_048
"""Pixels of an image's side; tables of positions grow with its fourth power."""
LARGEST_DEPTH, LARGEST_COUNT = 40, 10_000
"""Depth of nested lists, and total number of lists and objects."""


def read_config(path: Path, place: str) -> dict[str, Any]:
    """Read and check a config without building its model.

    Raises:
        HubError: The config is damaged, names an unknown architecture, or has arguments or numbers that no backbone
            has.
    """
    if not path.is_file():
        raise HubError(f"{place} has no {path.name}, so it is not a timm model")
    config = _parsed(path, place)
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise HubError(f"{place}: {path.name} names no architecture, so it is not a timm model")
    architecture = config["architecture"].removesuffix(f".{HINT}").partition(".")[0]
    if not is_model(architecture):
        about = config.get("timm_backbones_ext")
        writer = about.get("version") if isinstance(about, dict) else None
        made = f"was saved by timm-backbones-ext {writer}; this is {__version__}" if writer else "is not in timm either"
        raise HubError(
            f"{place}: unknown architecture {architecture!r}. It {made}. Upgrade timm-backbones-ext and timm"
        )
    try:
        _require_small(config)
        _require_classes(config)
        _require_own_name(config, architecture)
        _require_known_arguments(config, architecture)
    except ValueError as error:
        raise HubError(f"{place}: {CONFIG} {error}; nothing was loaded") from error
    return config


def _parsed(path: Path, place: str) -> Any:
    if (size := path.stat().st_size) > LARGEST_CONFIG:
        raise HubError(f"{place}: {path.name} has {size:,} bytes; expected at most {LARGEST_CONFIG:,}")
    try:
        text = path.read_text(encoding="utf-8")
        if (count := text.count("[") + text.count("{")) > LARGEST_COUNT:
            raise HubError(f"{place}: {path.name} has {count:,} lists and objects; expected at most {LARGEST_COUNT:,}")
        return json.loads(text)
    except RecursionError as error:
        raise HubError(f"{place}: {path.name} is nested too deeply; nothing was loaded") from error
    except ValueError as error:
        raise HubError(f"{place}: {path.name} is not JSON ({error}); nothing was loaded") from error


def _require_small(config: Mapping[str, Any]) -> None:
    """Reject numbers that no backbone has: negative sizes, NaN, and sizes that take hours or terabytes to build."""
    for branch, depth in _branches(config):
        if depth > LARGEST_DEPTH:
            raise ValueError(f"has lists more than {LARGEST_DEPTH} deep")
        numbers = [abs(value) for value in _values(branch) if isinstance(value, (int, float))]
        found = [value for value in numbers if not value <= LARGEST]
        found += [sum(numbers)] if isinstance(branch, list) and not sum(numbers) <= LARGEST_SUM else []
        if found:
            raise ValueError(f"has {found[0]}, and no backbone has so many of anything")
    for key, value in _numbers(config.get("model_args")):
        limit = LARGEST_SIDE if key == "img_size" else LARGEST_ARGUMENT
        if not 0 <= value <= limit:
            raise ValueError(f"has model_args {key} {value}; expected 0 to {limit}, and no backbone has so many")
    for cfg in (config, config.get("pretrained_cfg")):
        for key in ("input_size", "test_input_size", "min_input_size"):
            sides = cfg.get(key) if isinstance(cfg, dict) else None
            if any(not 0 < value <= LARGEST_SIDE for _, value in _numbers({key: sides})):
                raise ValueError(f"has {key} {sides}; expected 1 to {LARGEST_SIDE}, and no backbone has so many")


def _require_classes(config: Mapping[str, Any]) -> None:
    """Reject class counts that are not whole numbers from 0, and lists of labels of another length."""
    classes, labels = config.get("num_classes", 0), config.get("label_names")
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise ValueError(f"has num_classes {classes!r}; expected 0 or more")
    if isinstance(labels, list) and len(labels) != classes:
        raise ValueError(f"has {len(labels)} label names; expected {classes}, one per class")


def _require_known_arguments(config: Mapping[str, Any], architecture: str) -> None:
    """Reject arguments that the model's class does not take, such as one that switches off strict loading."""
    args, cfg = config.get("model_args", {}), config.get("pretrained_cfg", {})
    if not isinstance(args, dict) or not isinstance(cfg, dict):
        raise ValueError("does not fit any model: expected model_args and pretrained_cfg to be objects")
    if cfg.get("custom_load") or config.get("custom_load"):
        raise ValueError("does not fit any model that this version loads: custom_load asks for another file format")
    known = allowed_arguments(architecture)
    if unknown := sorted(set(args) - known):
        raise ValueError(
            f"does not fit any model that this version can build: {architecture} takes no argument {unknown[0]!r} "
            f"from a file; it takes {', '.join(sorted(known))}"
        )


def _require_own_name(config: Mapping[str, Any], architecture: str) -> None:
    """Reject a difference under one of timm's names: timm would load it as a whole model."""
    if delta_of(config) is not None and not architecture.startswith("ext_"):
        raise ValueError(f"is of a difference, and names {architecture}; expected a name that begins with ext_")


def _branches(tree: Any) -> Iterator[tuple[Any, int]]:
    """Every list and dict with its depth, including those inside others."""
    waiting = [(tree, 1)]
    while waiting:
        branch, depth = waiting.pop()
        if isinstance(branch, (list, dict)):
            yield branch, depth
            waiting += [(value, depth + 1) for value in _values(branch) if isinstance(value, (list, dict))]


def _values(branch: Any) -> list[Any]:
    return branch if isinstance(branch, list) else list(branch.values())


def _numbers(args: Any) -> Iterator[tuple[str, int | float]]:
    """Every number among the arguments with the name of its argument, those inside lists and dicts included."""
    for name, tree in args.items() if isinstance(args, dict) else ():
        if isinstance(tree, (int, float)):
            yield name, tree
        for branch, _ in _branches(tree):
            yield from ((name, value) for value in _values(branch) if isinstance(value, (int, float)))
