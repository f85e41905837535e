"""The model card of a saved backbone, rendered and written by huggingface_hub.

What this package writes stands between two marks; the next push replaces it and leaves the rest of a card alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models import get_pretrained_cfg
from yaml import YAMLError

from .._types import Model
from ..catalog.description import describe
from ..edits import parse_edits
from ..weights.files import WEIGHTS

__all__ = ["REPO_PLACEHOLDER", "base_model", "merge_cards", "render_card"]

TEMPLATE = Path(__file__).with_name("card.md.jinja")
REPO_PLACEHOLDER = "OWNER/NAME"
BEGIN = "<!-- timm-backbones-ext writes from here -->"
END = "<!-- to here; what you write below or above stays -->"


def base_model(base: str, tag: str | None) -> tuple[str | None, str | None]:
    """Hub id and licence of the weights that a model started from, if timm knows them."""
    try:
        cfg = get_pretrained_cfg(f"{base}.{tag}" if tag else base)
    except RuntimeError:  # a tag of the user's own
        return None, None
    return (cfg.hf_hub_id, cfg.license) if cfg else (None, None)


def render_card(
    model: Model,
    identity: Any,
    fields: Mapping[str, Any],
    *,
    metrics: Mapping[str, float],
    section: str,
    hashes: Mapping[str, str],
    repo: str = REPO_PLACEHOLDER,
) -> str:
    """The text of README.md for a full model.

    Args:
        model: The model; its pretrained config gives the licence.
        identity: Its architecture, base, tag and edits.
        fields: Metadata that replaces what is worked out here.
        metrics: Results on the first of `datasets`.
        section: Markdown after the usage.
        hashes: sha256 of the files beside it.
        repo: Hub id to show in the usage.

    Raises:
        ValueError: The licence of the base forbids the one that is asked for, or metrics lack a data set.
    """
    metadata = _metadata(model, identity, fields, metrics)
    origin = base_model(identity.base, identity.tag)[0]
    facts = describe(
        identity.architecture,
        edits=list(identity.extra) or None,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
    )
    card = ModelCard.from_template(
        ModelCardData(**metadata),
        template_path=str(TEMPLATE),
        title=f"{identity.architecture}{f' from {origin}' if origin else ''}",
        summary=_summary(identity, model),
        edits=parse_edits(identity.edits),
        levels=facts.levels,
        params=f"{facts.params / 1e6:.2f}M",
        gmacs=f"{facts.gmacs:.2f}",
        input_size="x".join(map(str, facts.input_size)),
        shape=", ".join(map(str, (1, *facts.input_size))),
        install=identity.architecture.startswith("ext_"),
        classes=model.num_classes,
        notes=model.pretrained_cfg.get("notes") or (),
        metrics=metrics,
        section=section.strip(),
        hashes=hashes,
        weights=WEIGHTS,
        repo=repo,
        begin=BEGIN,
        end=END,
    )
    return str(card)


def _metadata(model: Model, identity: Any, fields: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """What the Hub reads of a card."""
    origin, licence = base_model(identity.base, identity.tag)
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
    metadata.update(_results(metadata, metrics, identity.architecture))
    return {key: value for key, value in metadata.items() if value is not None}


def merge_cards(old: str, new: str) -> str:
    """The new card, with the sections and the metadata of the old one that are the user's own.

    Raises:
        ValueError: The metadata of the old one cannot be read.
    """
    after = ModelCard(new)
    ours, kept, head, tail = after.data.to_dict(), {}, "", ""
    if old.strip():
        try:
            before = ModelCard(old, ignore_metadata_errors=True)
        except (ValueError, YAMLError) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"the repo's card has metadata that cannot be read ({said}); mend it there first"
            ) from error
        kept = {key: value for key, value in before.data.to_dict().items() if key not in ours}
        head, begin, rest = before.text.partition(BEGIN)
        _, end, tail = rest.partition(END)
        if not (begin and end):  # a card of another hand
            head, tail = "", before.text
    generated = after.text[after.text.index(BEGIN) : after.text.index(END) + len(END)]
    after.data = ModelCardData(**kept, **ours)
    parts = [part.strip() for part in (head, generated, tail)]
    after.text = "\n" + "\n\n".join(filter(None, parts)) + "\n"
    return str(after)


def _require_allowed(asked: str | None, licence: str | None, origin: str | None) -> None:
    """Weights derived from others keep a licence that forbids commercial use, or asks to share alike."""
    bound = (licence or "").lower()
    if ("-nc" in bound or "-sa" in bound or bound.startswith("gpl")) and asked != licence:
        raise ValueError(
            f"the base {origin} is under {licence}, which does not allow {asked!r} for weights derived from it; leave "
            "out the licence. For weights that were trained from scratch, say so with card={'base_model': None}"
        )


def _results(metadata: Mapping[str, Any], metrics: Mapping[str, float], name: str) -> dict[str, Any]:
    """Metrics as the Hub's model-index has them."""
    if not metrics:
        return {}
    if not metadata.get("datasets"):
        raise ValueError("metrics need the data set that they were measured on: card={'datasets': ['name']}")
    data_set = metadata["datasets"][0]
    where = {"task_type": metadata["pipeline_tag"], "dataset_type": data_set, "dataset_name": data_set}
    found = [EvalResult(**where, metric_type=key, metric_value=value) for key, value in metrics.items()]
    return {"model_name": metadata.get("model_name", name), "eval_results": found}


def _summary(identity: Any, model: Model) -> str:
    what = f"`{identity.base}`" + (
        f" with {', '.join(f'`{edit}`' for edit in identity.edits)}" if identity.edits else ""
    )
    head = f"a classifier of {model.num_classes} classes" if model.num_classes else "no classifier"
    return f"{what}, {head}; made with timm {timm.__version__} and timm-backbones-ext."
