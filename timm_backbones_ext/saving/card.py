"""The model card of a saved backbone; huggingface_hub renders and parses it.

The text of this package stands between two marks. The next push replaces that text and keeps the rest of the card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import get_pretrained_cfg
from yaml import YAMLError

from ..catalog.description import describe_model
from ..edits import parse_edits
from ..edits.lineage import without_data
from ..weights.delta import Base
from ..weights.files import WEIGHTS
from .identity import Identity

__all__ = ["REPO_PLACEHOLDER", "DeltaFacts", "base_model", "card_fields", "card_section", "merge_cards", "render_card"]

TEMPLATE = Path(__file__).with_name("card.md.jinja")
REPO_PLACEHOLDER = "OWNER/NAME"
BEGIN = "<!-- timm-backbones-ext writes from here -->"
END = "<!-- to here; what you write below or above stays -->"
SECTION, SECTION_END = "<!-- section -->", "<!-- end of the section -->"


def base_model(base: str, tag: str | None) -> tuple[str | None, str | None]:
    """Hub id and licence of the weights that a model started from; None where timm does not know them."""
    try:
        cfg = get_pretrained_cfg(f"{base}.{tag}" if tag else base)
    except RuntimeError:  # the user chose the tag
        return None, None
    return (cfg.hf_hub_id, cfg.license) if cfg else (None, None)


@dataclass(frozen=True)
class DeltaFacts:
    """Facts on a difference for the card."""

    base: Base
    size: int
    """Bytes of the file."""
    whole: int
    """Bytes of all tensors of the model."""


def render_card(
    found: Identity,
    fields: Mapping[str, Any],
    *,
    metrics: Mapping[str, float],
    section: str,
    hashes: Mapping[str, str],
    delta: DeltaFacts | None = None,
    repo: str = REPO_PLACEHOLDER,
) -> str:
    """The text of README.md for a model.

    Args:
        found: The model and its names.
        fields: Metadata that replaces the metadata made here.
        metrics: Results on the first of `datasets`.
        section: Markdown after the usage.
        hashes: sha256 of the files beside it.
        delta: Facts on the difference; None for whole weights.
        repo: Hub id to show in the usage.

    Raises:
        ValueError: The licence of the base forbids the licence in `fields`, or metrics lack a data set.
    """
    of_tag, licence = base_model(found.base, found.tag)
    origin = delta.base.repo if delta else of_tag
    fields = {**fields, "base_model": origin} if delta else fields
    model, metadata = found.model, _metadata(found, fields, metrics, origin)
    with torch.device("meta"):
        facts = describe_model(without_data(model).float())
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(TEMPLATE),
        title=f"{found.architecture}{f' from {origin}' if origin else ''}",
        summary=_summary(found),
        edits=parse_edits(found.edits),
        levels=facts.levels,
        params=f"{facts.params / 1e6:.2f}M",
        gmacs=f"{facts.gmacs:.2f}",
        input_size="x".join(map(str, facts.input_size)),
        shape=", ".join(map(str, (1, *facts.input_size))),
        install=found.architecture.startswith("ext_"),
        classes=model.num_classes,
        notes=model.pretrained_cfg.get("notes") or (),
        metrics=metrics,
        section=f"{SECTION}\n{section.strip()}\n{SECTION_END}" if section.strip() else "",
        hashes=hashes,
        delta=delta,
        base_licence=licence if origin == of_tag else None,
        weights=WEIGHTS,
        repo=repo,
        begin=BEGIN,
        end=END,
    )
    return str(card)


def _metadata(
    found: Identity, fields: Mapping[str, Any], metrics: Mapping[str, float], origin: str | None
) -> dict[str, Any]:
    """The card's metadata, which the Hub reads."""
    model, licence = found.model, base_model(found.base, found.tag)[1]
    metadata: dict[str, Any] = {
        "library_name": "timm",
        "license": model.pretrained_cfg.get("license") or licence,
        "base_model": origin,
        "base_model_relation": "finetune" if origin else None,
        "tags": ["timm", "timm-backbones-ext", "backbone"],
        "pipeline_tag": "image-classification" if model.num_classes else "image-feature-extraction",
        **fields,
    }
    if metadata["base_model"]:
        _require_allowed(metadata["license"], licence, origin)
    metadata.update(_results(metadata, metrics, found.architecture))
    return {key: value for key, value in metadata.items() if value is not None}


def merge_cards(old: str, new: str) -> str:
    """The new card, with the user's own metadata and sections: those of the old card, else those of the new one.

    Raises:
        ValueError: The metadata of the old card cannot be read.
    """
    after = _parsed(new)
    ours, kept = after.data.to_dict(), {}
    head, generated, tail = _parts(after.text)
    if old.strip():
        before = _parsed(old)
        kept = {key: value for key, value in before.data.to_dict().items() if key not in ours}
        above, _, below = _parts(before.text)
        if above or below:
            head, tail = above, below
    after.data = ModelCardData(**kept, **ours)
    after.text = "\n" + "\n\n".join(filter(None, (head, generated, tail))) + "\n"
    return str(after)


def _parts(text: str) -> tuple[str, str, str]:
    """The user's text above the marks, the text between them, and the user's text below (all without marks)."""
    head, begin, rest = text.partition(BEGIN)
    generated, end, tail = rest.partition(END)
    if not (begin and end):
        return "", "", text.strip()
    return head.strip(), f"{BEGIN}{generated}{END}", tail.strip()


def card_fields(text: str) -> tuple[dict[str, Any], dict[str, float]]:
    """The metadata of a card as fields for the next one, and the results in it.

    Raises:
        ValueError: The metadata cannot be read.
    """
    if not text.strip():
        return {}, {}
    fields = {key: value for key, value in vars(_parsed(text).data).items() if value is not None and key[0] != "_"}
    results = fields.pop("eval_results", None) or ()
    return fields, {item.metric_type: item.metric_value for item in results}


def card_section(text: str) -> str:
    """The section that was given to `save` for a card."""
    return text.partition(SECTION)[2].partition(SECTION_END)[0].strip()


def _parsed(text: str) -> ModelCard:
    try:
        return ModelCard(text, ignore_metadata_errors=True)
    except (ValueError, YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"the card has metadata that cannot be read ({said}); correct it there first") from error


def _require_allowed(asked: str | None, licence: str | None, origin: str | None) -> None:
    """Raise ValueError for another licence than the base's if that forbids commercial use or is share-alike."""
    bound = (licence or "").lower()
    if ("-nc" in bound or "-sa" in bound or bound.startswith("gpl")) and asked != licence:
        raise ValueError(
            f"the base {origin} is under {licence}, which does not allow {asked!r} for weights derived from it; leave "
            "out the licence. If the weights were trained from scratch, set the card's base_model to None"
        )


def _results(metadata: Mapping[str, Any], metrics: Mapping[str, float], name: str) -> dict[str, Any]:
    """Metrics in the form of the Hub's model-index."""
    if not metrics:
        return {}
    if not metadata.get("datasets"):
        raise ValueError("metrics need the data set that they were measured on: name it in the card's datasets")
    data_set = metadata["datasets"][0]
    where = {"task_type": metadata["pipeline_tag"], "dataset_type": data_set, "dataset_name": data_set}
    found = [EvalResult(**where, metric_type=key, metric_value=value) for key, value in metrics.items()]
    return {"model_name": metadata.get("model_name", name), "eval_results": found}


def _summary(found: Identity) -> str:
    what = f"`{found.base}`" + (f" with {', '.join(f'`{edit}`' for edit in found.edits)}" if found.edits else "")
    classes = found.model.num_classes
    head = f"a classifier of {classes} classes" if classes else "no classifier"
    return f"{what}, {head}; made with timm {timm.__version__} and timm-backbones-ext."
