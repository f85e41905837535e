"""Check that the config and the weights of a saved backbone make a model. Each check builds the model once."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch

from ..errors import HubError, WeightsError
from ..weights.config import read_config
from ..weights.files import WEIGHTS
from ..weights.limits import bounded

__all__ = ["check_config", "check_weights"]


def check_config(path: Path, place: str) -> None:
    """Check that this version can build the model of a config; the model is built once, on the device `meta`.

    Raises:
        HubError: The config is damaged, has an unknown architecture or unknown arguments, or describes a model that is
            larger than any backbone.
    """
    read_config(path, place)
    with _named(path, place), bounded(place), torch.device("meta"):
        timm.create_model(f"local-dir:{path.parent}", device="meta")


def check_weights(folder: Path, place: str, cache_dir: Path | None = None) -> None:
    """Check that the weights fit the model, by loading them once.

    Raises:
        HubError: The weights do not fit, or the file is damaged.
    """
    with _named(folder / WEIGHTS, place), bounded(place):
        timm.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=cache_dir)


@contextmanager
def _named(path: Path, place: str) -> Generator[None]:
    """Turn any error that timm raises while building into a HubError that names the file."""
    try:
        yield
    except (HubError, WeightsError) as error:
        if str(error).startswith(place):
            raise
        raise HubError(f"{place}: {error}") from error
    except Exception as error:
        raise HubError(
            f"{place}: {path.name} does not fit any model that this version can build "
            f"({type(error).__name__}: {error}); nothing was loaded"
        ) from error
