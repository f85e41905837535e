"""Checks of a saved backbone before anything of it is loaded: they cost no memory, since models are built on `meta`."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import is_model

from .._version import __version__
from ..registry import HINT
from ..source import WEIGHTS
from ..transfer import HubError
from ..weights import WeightsError, read_header

__all__ = ["check_config", "check_weights"]

LARGEST = 100_000
"""No argument of a backbone counts so many channels, blocks or classes."""


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
        what = "config.json" if path.suffix == ".json" else path.name
        raise HubError(
            f"{place}: {what} does not fit any model that this version can build "
            f"({type(error).__name__}: {error}); nothing was loaded"
        ) from error


def _require_sane(config: Mapping[str, Any], place: str) -> None:
    """Numbers that would build a model for hours are refused beforehand."""
    for value in _leaves(config):
        if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
            raise HubError(
                f"{place}: config.json has {value}, and no backbone has so many of anything; nothing was loaded"
            )


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, (list, dict)):
        return [leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in _leaves(item)]
    return [tree]
