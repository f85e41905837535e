"""Checks of a saved backbone before anything of it is loaded: they cost no memory, since models are built on `meta`."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch

from ..errors import HubError, WeightsError
from ..weights.config import read_config
from ..weights.files import WEIGHTS, read_header

__all__ = ["check_config", "check_weights"]


def check_config(path: Path, place: str) -> None:
    """See that a config names a model that this version can build.

    Raises:
        HubError: It is damaged, or names an unknown architecture or arguments that it does not take.
    """
    read_config(path, place)
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
