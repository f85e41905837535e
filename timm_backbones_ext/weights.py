"""Checkpoints of a base or of an edited model, made to fit an edited model; strict in every direction.

The law of this file: a checkpoint fits if its keys and shapes are exactly those of the base with the first k of the
model's edits, for some k. It is loaded into that model and the remaining edits are applied to it, so converting a
checkpoint is the same act as editing a live model, and no edit needs a conversion of its own.
"""

import json
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models import EfficientNet, adapt_input_conv
from torch import Tensor

from ._types import Model
from .edits import Edit, edit
from .edits.output_stride import mend
from .layers.split_norm_act import split

__all__ = ["Recipe", "WeightsError", "mismatch", "read_header", "write_safetensors"]

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""Of the tensors of a backbone: floats, and the counts of batch norms."""


LARGEST_HEADER = 10_000_000
"""Bytes; that of a backbone with 1,000 tensors has 100,000."""


class WeightsError(RuntimeError):
    """Weights that do not belong to the model; nothing was loaded."""


@dataclass
class Recipe:
    """How a model is made: timm's entry function for the base, and the edits."""

    entry: Callable[..., Model]
    edits: tuple[Edit, ...]
    headless: bool = False
    """The classifier is not wanted: the checkpoint may have any classifier or none."""
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **kwargs: Any) -> Model:
        """Make the model; `kwargs` are those of timm's entry function."""
        self.kwargs = kwargs
        model = mend(self.entry(pretrained=False, **kwargs))
        if isinstance(model, EfficientNet):
            split(model)
        return edit(model, *self.edits)

    def fit(self, state_dict: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
        """The checkpoint in the format of `model`: base tensors bit-identical, tensors of missing edits the identity.

        Raises:
            WeightsError: Keys are missing, unknown or misshaped; the message names them.
        """
        cfg = model.pretrained_cfg
        state_dict = self._as_timm_names_them(state_dict, model)
        if cfg.get("tag") == "fcmae":  # ConvNeXt V2's autoencoders are published without the norm of the head
            state_dict = {**{k: v for k, v in model.state_dict().items() if k.startswith("head.")}, **state_dict}
        classifier = cfg.get("classifier") or ()
        heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
        if self.headless or model.num_classes != cfg.get("num_classes"):
            state_dict = {key: value for key, value in state_dict.items() if not key.startswith(heads)}
            num_classes = 0
        else:
            num_classes = cfg["num_classes"] + (cfg.get("label_offset") or 0)
        source = dict(num_classes=num_classes, in_chans=(cfg.get("input_size") or (3,))[0])
        problems = []
        for count in range(len(self.edits), -1, -1):
            candidate = self._empty(self.edits[:count], **source)
            if not (problem := mismatch(state_dict, candidate.state_dict())):
                return _adapted(self._finish(state_dict, candidate, self.edits[count:]), model)
            problems.append(problem)
        name = cfg.get("architecture", type(model).__name__)
        raise WeightsError(f"these weights do not fit {name}, nothing was loaded: {min(problems, key=len)}")

    def _as_timm_names_them(self, state_dict: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
        """The checkpoint after the base's own conversion, for weights published under other names."""
        module = vars(sys.modules[self.entry.__module__])
        convert = module.get("checkpoint_filter_fn") or module.get("_filter_fn")
        if convert is None:
            return state_dict
        return convert(state_dict, model) if convert.__code__.co_argcount > 1 else convert(state_dict)

    def _empty(self, edits: tuple[Edit, ...], **source: Any) -> Model:
        with torch.device("meta"):
            return edit(self.entry(pretrained=False, **{**self.kwargs, **source, "device": "meta"}), *edits)

    def _finish(self, state_dict: dict[str, Tensor], model: Model, edits: tuple[Edit, ...]) -> dict[str, Tensor]:
        if not edits:
            return state_dict
        model.load_state_dict(state_dict, strict=True, assign=True)
        return edit(model, *edits).state_dict()


def _adapted(state_dict: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Branches beside the first conv with the channels of timm's `in_chans`; timm itself adapts the conv alone."""
    expected, first = model.state_dict(), f"{model.pretrained_cfg.get('first_conv')}.branches."
    for key, value in state_dict.items():
        if key.startswith(first) and value.shape != expected[key].shape:
            state_dict[key] = adapt_input_conv(model.in_chans, value)
    return state_dict


def mismatch(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What is wrong with a checkpoint's keys and shapes; empty if nothing is."""
    shapes = [
        f"{key} {tuple(got[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in got and got[key].shape != expected[key].shape
    ]
    found = {
        "missing": [key for key in expected if key not in got],
        "unknown": [key for key in got if key not in expected],
        "misshaped": shapes,
    }
    return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items() if names)


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def read_header(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as tensors without memory, on the device `meta`.

    Raises:
        WeightsError: The file is damaged, or holds tensors of a type that no backbone has.
    """
    try:
        with Path(path).open("rb") as raw:
            if (size := int.from_bytes(raw.read(8), "little")) > LARGEST_HEADER:
                raise SafetensorError(f"its header has {size:,} bytes; expected at most {LARGEST_HEADER:,}")
        with safe_open(path, framework="pt") as file:
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  it has no other iteration
            kinds = {key: part.get_dtype() for key, part in parts.items()}
            shapes = {key: part.get_shape() for key, part in parts.items()}
    except SafetensorError as error:
        raise WeightsError(f"{Path(path).name} is damaged or is not a safetensors file ({error})") from error
    if strange := [key for key, kind in kinds.items() if kind not in DTYPES]:
        raise WeightsError(f"{Path(path).name} holds {kinds[strange[0]]} in {strange[0]}; expected {', '.join(DTYPES)}")
    return {key: torch.empty(shapes[key], dtype=DTYPES[kinds[key]], device="meta") for key in parts}


def write_safetensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Write tensors and metadata so that the same content gives the same bytes.

    The safetensors library writes the metadata in a new order each time; here it is sorted.
    """
    save_file(tensors, path, metadata=metadata)
    with Path(path).open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(metadata.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(text.ljust(size))
