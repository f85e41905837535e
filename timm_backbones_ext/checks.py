"""Checks of a saved backbone before anything of it is loaded: they cost no memory, since models are built on `meta`."""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model

from ._version import __version__
from .transfer import HubError
from .weights import WeightsError, read_header

__all__ = ["CONFIG", "HINT", "WEIGHTS", "check_config", "check_weights"]

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HINT = "needs_pip_install_timm-backbones-ext"
"""Follows the architecture in a saved config: timm ignores it where the name is known and prints it where it is not."""
LARGEST = 100_000
"""No argument of a backbone counts more channels, blocks or classes ..."""
LARGEST_SUM = 10_000
"""... and no list of arguments, such as depths or widths, more in total."""


def check_config(path: Path, place: str) -> None:
    """See that a config names a model that this version can build.

    Raises:
        HubError: It is damaged, or names an unknown architecture or arguments that it does not take.
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
    with _built(path, place):
        timm.create_model(f"local-dir:{path.parent}", device="meta")


def check_weights(folder: Path, place: str) -> None:
    """See that the header of the weights names the tensors of the model, with their shapes.

    Raises:
        HubError: It does not, or the file is damaged.
    """
    with _built(folder / WEIGHTS, place), torch.device("meta"):
        header = read_header(folder / WEIGHTS)
        overlay: dict[str, Any] = {"source": "", "state_dict": header}
        timm.create_model(f"local-dir:{folder}", pretrained=True, pretrained_cfg_overlay=overlay, device="meta")


@contextmanager
def _built(path: Path, place: str) -> Generator[None]:
    """Whatever a builder of timm says of arguments that it does not understand is an error of the file."""
    try:
        yield
    except (HubError, WeightsError) as error:
        raise HubError(f"{place}: {error}") from error
    except Exception as error:
        raise HubError(
            f"{place}: {path.name} does not fit any model that this version can build "
            f"({type(error).__name__}: {error}); nothing was loaded"
        ) from error


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
