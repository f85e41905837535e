"""Open files of weights without running code from them, and remove wrappers around a state dict."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import WeightsError
from .files import read_header
from .packages import PACKAGE, find_package

__all__ = ["Opened", "open_checkpoint"]

ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Entries of a training checkpoint that hold the weights; averaged ones come first, as in timm."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes that a wrapper adds to all keys."""
INSIDE = ("backbone.", "encoder.")
"""Prefixes of the keys of a backbone inside a larger model."""
HARMLESS: list[Any] = [argparse.Namespace]
"""Classes beside tensors that a pickle may hold: timm's train.py keeps its arguments in each checkpoint."""


class Opened(NamedTuple):
    """A state dict without wrappers."""

    tensors: dict[str, Tensor]
    words: tuple[str, ...]
    """Sentences on what was removed or left out."""
    inside: bool
    """Whether the state dict was the backbone of a larger model, whose other tensors were left out."""


def open_checkpoint(source: str | Path | Mapping[str, Any]) -> Opened:
    """The tensors of a checkpoint.

    Args:
        source: A safetensors file, a pickle that `torch.load(weights_only=True)` reads, `package:NAME`, or a state
            dict or training checkpoint in memory.

    Raises:
        WeightsError: The file is damaged, needs more than tensors to be unpickled, or holds no state dict.
        FileNotFoundError: There is no file.
    """
    content: Any = source if isinstance(source, Mapping) else _read(source)
    words: list[str] = []
    while name := next((item for item in ENTRIES if isinstance(content.get(item), Mapping)), None):
        content = content[name]
        words.append(f"took the entry {name!r}")
    if not content or (strange := [key for key, value in content.items() if not isinstance(value, Tensor)]):
        what = f"{strange[0]!r} is a {type(content[strange[0]]).__name__}" if content else "it is empty"
        raise WeightsError(f"expected a state dict, or one under {', '.join(ENTRIES)}; got something else: {what}")
    tensors, inside = dict(content), False
    while prefix := _common(tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        words.append(f"dropped {prefix!r} from all keys")
    for prefix in INSIDE:
        kept = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if kept:
            others = sorted({key.partition(".")[0] for key in tensors if not key.startswith(prefix)})
            words.append(f"took what is under {prefix!r}" + (f", without {', '.join(others)}" if others else ""))
            tensors, inside = kept, inside or bool(others)
    return Opened(tensors, tuple(words), inside)


def _common(tensors: dict[str, Tensor]) -> str | None:
    return next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), None)


def _read(source: str | Path) -> Any:
    text = str(source)
    path = find_package(text.removeprefix(PACKAGE)).path if text.startswith(PACKAGE) else Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}; expected weights, or {PACKAGE}NAME")
    if path.suffix == ".safetensors":
        read_header(path)
        return load_file(path)
    try:
        with torch.serialization.safe_globals([*HARMLESS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refused(path, error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path.name} is damaged or is no checkpoint of torch ({_first(error)})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"expected a state dict in {path.name}; got a {type(content).__name__}")
    return content


def _refused(path: Path, error: Exception) -> str:
    if "GLOBAL" in str(error) or "global" in str(error):
        return (
            f"{path.name} is a pickle that needs more than tensors, so it is not read: {_first(error)}. Load it where "
            "you trust it, and save its state dict: safetensors.torch.save_file(state_dict, 'weights.safetensors')"
        )
    return f"{path.name} is damaged or is no checkpoint of torch ({_first(error)})"


def _first(error: Exception) -> str:
    """The line of torch's message that names the cause; otherwise the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "WeightsUnpickler error" in line or "GLOBAL" in line]
    return " ".join((named or lines or [type(error).__name__])[:1])[:300]
