"""Load checkpoints of other projects into models of timm's families, and convert them back.

A checkpoint is recognised from its keys and shapes, renamed by the table in `formats.py`, and loaded by the rule of the
first k edits (`edits/lineage.py`): a key that is missing, unknown or misshaped is an error.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from .._types import Model
from ..edits import parse_edits
from ..edits.lineage import Lineage, mismatch
from ..errors import WeightsError
from ..families import family_of
from ..layers import ExtendedConv2d
from ..licences import warn_once
from .formats import Format
from .opening import Opened, open_checkpoint
from .packages import licence_of
from .recognise import COUNTER, HEAD_NORM, Reading, classifiers, format_for, recognise, rules_for

__all__ = ["Loaded", "convert", "load_checkpoint"]

_logger = logging.getLogger(__name__)
NEUTRAL = ("frozen_bn", "split_norm_act", "static_pad")
"""Edits that add no tensors, so that every format can hold the model."""


@dataclass(frozen=True)
class Loaded:
    """The result of `load_checkpoint`."""

    source: str
    """The format of the checkpoint."""
    notes: tuple[str, ...] = ()
    """Sentences on prefixes that were removed, and tensors that were added, left out or cast."""

    def __str__(self) -> str:
        """One line."""
        return "; ".join((f"read as {self.source}", *self.notes))


def load_checkpoint(
    model: Model, checkpoint: str | Path | Mapping[str, Any], source: str = "auto", *, head: bool = True
) -> Loaded:
    """Load a checkpoint of timm, torchvision, Meta, lukemelas or mmcv into a model, edited or not.

    If the metadata of the file state a licence that forbids commercial use, a `LicenseWarning` is given once per
    process.

    Args:
        model: A full model of a known family, or a `features_only` one, which needs no classifier.
        checkpoint: A file (safetensors, or a pickle of tensors), `package:NAME`, or a state dict.
        source: The format; "auto" recognises it from keys and shapes.
        head: If false, keep the model's own classifier and ignore that of the checkpoint.

    Returns:
        The format, and notes on what was changed or left out.

    Raises:
        WeightsError: The checkpoint is damaged or of another model; the model is unchanged.
        FileNotFoundError: The file does not exist.
        ValueError: The format is unknown.
    """
    opened = open_checkpoint(checkpoint)
    full = model.full_model() if hasattr(model, "full_model") else model
    reading = recognise(opened.tensors, full, source, inside=opened.inside)
    _require_same_padding(reading.format, full)
    tensors = _in_timms_names(opened, reading)
    notes = [*opened.words, *_with_counters(tensors, reading), *_with_head(tensors, full, keep_own=not head)]
    _require_fit(tensors, full)
    notes += _casts(tensors, full)
    full.load_state_dict(tensors, strict=True)
    warn_once(str(checkpoint)[:200], licence_of(checkpoint))
    loaded = Loaded(reading.format.name, (*notes, *_with_eps(reading.format, full)))
    _logger.info("%s", loaded)
    return loaded


def convert(checkpoint: Mapping[str, Any], *, source: str = "auto", target: str, arch: str) -> dict[str, Tensor]:
    """Rename the tensors of a checkpoint; values change only where the two projects use them differently.

    Args:
        checkpoint: A state dict or training checkpoint.
        source: Its format; "auto" recognises it from keys and shapes.
        target: The new format: "timm", "torchvision", "meta", "meta-detection", "meta-fcmae", "lukemelas", "mmcv".
        arch: Name of the architecture in timm or here: `ext_resnet50_dcn` for a ResNet with deformable convs.

    Returns:
        The state dict with the new names, without tensors for which the target has no name.

    Raises:
        WeightsError: The state dict is not of this architecture, or the target cannot hold its edits.
        ValueError: The format or the architecture is unknown.
    """
    opened = open_checkpoint(checkpoint)
    with torch.device("meta"):
        model = timm.create_model(arch)
    reading, wanted = recognise(opened.tensors, model, source, inside=opened.inside), format_for(target, model)
    for item in (reading.format, wanted):
        _require_same_padding(item, model)
    edits = [item.name for item in parse_edits(getattr(model, "edits", ()))]
    if foreign := [name for name in edits if wanted.name != "timm" and name not in (*wanted.edits, *NEUTRAL)]:
        raise WeightsError(f"{wanted.project} has no {foreign[0]}; convert a model without this edit, or merge it")
    tensors = _in_timms_names(opened, reading)
    names = rules_for(wanted, model).names(tensors)
    changed = {key: name.change.out(tensors[key]) if name.change else tensors[key] for key, name in names.items()}
    return {name.text: changed[key].contiguous() for key, name in names.items() if name.text}


def _in_timms_names(opened: Opened, reading: Reading) -> dict[str, Tensor]:
    given = opened.tensors
    return {entry.ours: entry.back(given[text]) for text, entry in reading.entries.items() if text in given}


def _with_counters(tensors: dict[str, Tensor], reading: Reading) -> list[str]:
    """Add `num_batches_tracked` where an old checkpoint lacks it, in place; returns notes."""
    lacking = [e.ours for e in reading.entries.values() if e.ours.endswith(COUNTER) and e.ours not in tensors]
    tensors.update({key: torch.tensor(0) for key in lacking})
    return [f"{len(lacking)} counts of batches are missing and start at 0"] if lacking else []


def _with_head(tensors: dict[str, Tensor], model: Model, *, keep_own: bool) -> list[str]:
    """Replace the checkpoint's classifier by the model's, or drop it if the model has none, in place; returns notes."""
    heads = classifiers(model)
    found = [key for key in tensors if key.startswith(heads)]
    own = {key: value for key, value in model.state_dict().items() if key.startswith(heads)}
    if not own or keep_own:
        for key in found:
            del tensors[key]
        norm = {k: v for k, v in model.state_dict().items() if k.startswith(HEAD_NORM) and k not in tensors}
        tensors.update({**own, **norm})
        kept = "the model keeps its own classifier" if own else "the model has no classifier"
        return [f"{kept}; that of the checkpoint was left out" if found else kept] if found or own else []
    if not found:
        raise WeightsError(
            "the checkpoint has no classifier, nothing was loaded. head=False keeps the model's own; a model with "
            "num_classes=0 or features_only=True needs none"
        )
    _require_classes(tensors, own)
    return []


def _require_classes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key, value in own.items():
        if key in tensors and len(tensors[key]) != len(value):
            raise WeightsError(
                f"the checkpoint has {len(tensors[key])} classes and the model {len(value)}, nothing was loaded. "
                f"Create it with num_classes={len(tensors[key])}, or keep its own classifier by head=False"
            )


def _require_fit(tensors: dict[str, Tensor], model: Model) -> None:
    """Check the rule of the first k edits on the device `meta`, so that a failure changes nothing."""
    meta = {key: value.to("meta") for key, value in tensors.items()}
    expected, edits = model.state_dict(), getattr(model, "edits", ())
    try:
        fitted = Lineage.of(model).fitted(meta, model.num_classes) if edits and mismatch(meta, expected) else meta
    except ValueError as error:
        raise WeightsError(f"the checkpoint does not fit, nothing was loaded: {error}") from error
    if problem := mismatch(fitted, expected):
        raise WeightsError(f"the checkpoint does not fit, nothing was loaded: {problem}")


def _casts(tensors: Mapping[str, Tensor], model: Model) -> list[str]:
    """Notes on tensors whose dtype is not the model's."""
    own = model.state_dict()
    casts = {
        (value.dtype, own[key].dtype) for key, value in tensors.items() if key in own and value.is_floating_point()
    }
    return [f"{_short(old)} was cast to the model's {_short(new)}" for old, new in sorted(casts, key=str) if old != new]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _require_same_padding(item: Format, model: Model) -> None:
    """Require that checkpoint and model pad alike: TensorFlow's and torch's padding have the same keys."""
    if item.same_padding is None or family_of(model).name != "efficientnet":
        return
    tensorflows = any(
        isinstance(module, Conv2dSame) or (isinstance(module, ExtendedConv2d) and (module.same or module.uneven))
        for module in model.modules()
    )
    if tensorflows != item.same_padding:
        name = model.pretrained_cfg.get("architecture", "")
        pads, other = (
            ("as TensorFlow does", "one of the tf_ models") if item.same_padding else ("evenly", "one without tf_")
        )
        raise WeightsError(f"{item.project} pads {pads}, and {name} does not; nothing was loaded. Take {other}")


def _with_eps(item: Format, model: Model) -> list[str]:
    """Set the epsilon of batch norms to that of training, and record it in the model's arguments."""
    eps = item.eps_of(model.pretrained_cfg.get("architecture", ""))
    norms = [module for module in model.modules() if _is_batch_norm(module) and getattr(module, "eps", eps) != eps]
    if eps is None or not norms:
        return []
    for norm in norms:
        norm.eps = eps
    model._model_args = {**getattr(model, "_model_args", {}), "bn_eps": eps}
    return [f"batch norms now have eps {eps:g}"]


def _is_batch_norm(module: nn.Module) -> bool:
    return hasattr(module, "running_var") and hasattr(module, "running_mean")
