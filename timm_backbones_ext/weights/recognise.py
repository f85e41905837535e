"""Recognise the project of a state dict from its keys and shapes."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import Model
from ..edits.lineage import Lineage, mismatch, without_data
from ..errors import WeightsError
from ..families import family_of
from .formats import FORMATS, Change, Format, Rules

__all__ = ["COUNTER", "HEAD_NORM", "Reading", "classifiers", "format_for", "recognise", "rules_for"]

COUNTER = "num_batches_tracked"
"""Suffix of the keys that old checkpoints lack; the tensors do not affect outputs."""
HEAD_NORM = "head.norm."
"""Prefix of the keys of the norm before the classifier, which backbones of detectors lack."""
State = Mapping[str, Tensor]


class Entry(NamedTuple):
    """A tensor of a checkpoint, with its name and form in timm's model."""

    ours: str
    like: Tensor
    """timm's tensor, without data."""
    change: Change | None

    def back(self, value: Tensor) -> Tensor:
        """Convert a tensor of the checkpoint to timm's form."""
        return self.change.back(value, self.like) if self.change else value


class Reading(NamedTuple):
    """The result of reading a state dict in a format."""

    format: Format
    entries: dict[str, Entry]
    """Entries by the format's names."""
    problem: str
    """Text on how the state dict differs from the format; empty if it fits."""
    distance: int
    """Number of keys that differ."""


def rules_for(item: Format, model: Model) -> Rules:
    """The rules of a format for a model's family.

    Raises:
        WeightsError: The project has no such models.
    """
    family = family_of(model).name
    if family not in item.rules:
        raise WeightsError(f"{item.project} has no {family}; it has: {', '.join(item.rules)}")
    return item.rules[family]


def format_for(name: str, model: Model) -> Format:
    """The format with a name.

    Raises:
        ValueError: The format is unknown.
        WeightsError: The project has no such models.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; known: {', '.join(FORMATS)}")
    rules_for(FORMATS[name], model)
    return FORMATS[name]


def classifiers(model: Model) -> tuple[str, ...]:
    """First parts of timm's keys of the classifiers."""
    names = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def recognise(given: State, model: Model, source: str, *, inside: bool) -> Reading:
    """Find the format in which all keys of a state dict fit; the classifier may have any classes, or be missing.

    Args:
        given: The state dict.
        model: A full model.
        source: A format, or "auto" for the first that fits.
        inside: The state dict was the backbone of a larger model, such as a detector.

    Raises:
        WeightsError: Nothing fits, or two formats with different weights have the same keys.
        ValueError: An unknown format.
    """
    family = family_of(model).name
    known = [item for item in FORMATS.values() if family in item.rules]
    chosen = known if source == "auto" else [format_for(source, model)]
    heads = classifiers(model)
    readings = [_read(given, state, item, item.rules[family], heads) for state in _states(model) for item in chosen]
    fitting = {reading.format.name: reading for reading in reversed(readings) if not reading.distance}
    if not fitting:
        nearest = min(readings, key=lambda reading: reading.distance)
        name = model.pretrained_cfg.get("architecture", type(model).__name__)
        raise WeightsError(
            f"expected weights of {name} in one of the formats {', '.join(item.name for item in chosen)}; the nearest "
            f"is {nearest.format.name}, and the checkpoint differs from it: {nearest.problem}"
        )
    if {"timm", "mmcv"} <= fitting.keys() and any(".conv_offset." in key for key in given):
        return fitting[_of_deformable(given, heads, inside=inside)]
    return next(fitting[item.name] for item in chosen if item.name in fitting)


def _of_deformable(given: State, heads: tuple[str, ...], *, inside: bool) -> str:
    """The format of deformable convs, "timm" or "mmcv": both have the same keys but other weights."""
    if any(key.startswith(heads) for key in given):  # mmdet and mmseg have no classifier
        return "timm"
    if inside:
        return "mmcv"
    raise WeightsError(
        "keys of deformable convs are the same here and in mmcv, but their weights differ by a factor of two; say "
        "source='timm' for weights of this package, source='mmcv' for those of mmcv, mmdet or mmseg"
    )


def _states(model: Model) -> Iterator[dict[str, Tensor]]:
    """State dicts on `meta`: of the model, then of its base with the first k edits for every smaller k."""
    yield {key: value.to("meta") for key, value in model.state_dict().items()}
    if not getattr(model, "edits", ()):
        return
    lineage = Lineage.of(model)
    partial = without_data(lineage.base)
    if partial.num_classes != model.num_classes:
        partial.reset_classifier(model.num_classes)
    for item in lineage.edits:
        yield partial.state_dict()
        item.apply(partial)


def _read(given: State, state: State, item: Format, rules: Rules, heads: tuple[str, ...]) -> Reading:
    classifier = {head + part: torch.empty(0, device="meta") for head in heads for part in ("weight", "bias")}
    state = {**classifier, **state}  # the model may have none
    names = rules.names(state)
    entries = {name.text: Entry(key, state[key], name.change) for key, name in names.items() if name.text}
    wanted = {text: _out(entry) for text, entry in entries.items()}
    for text, entry in entries.items():
        loose = entry.ours.startswith((*heads, HEAD_NORM))
        if text not in given and (loose or text.endswith(COUNTER)):
            del wanted[text]
        elif loose:
            wanted[text] = given[text]
    unlike = [text for text in given if text not in wanted or given[text].shape != wanted[text].shape]
    distance = len(unlike) + len(wanted.keys() - given.keys())
    return Reading(item, entries, mismatch(given, wanted), distance)


def _out(entry: Entry) -> Tensor:
    return entry.change.out(entry.like) if entry.change else entry.like
