"""The model card of a saved backbone, rendered and written by huggingface_hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import ModelCard, ModelCardData
from timm.models import get_pretrained_cfg

from .._types import Model
from ..describe import describe
from ..edits import parse

__all__ = ["base_model", "render_card"]

TEMPLATE = Path(__file__).with_name("card.md.jinja")
REPO_PLACEHOLDER = "OWNER/NAME"


def base_model(base: str, tag: str | None) -> str | None:
    """Hub id of the weights that a model started from, if timm knows it."""
    try:
        cfg = get_pretrained_cfg(f"{base}.{tag}" if tag else base)
    except RuntimeError:  # a tag of the user's own
        return None
    return cfg.hf_hub_id if cfg else None


def render_card(model: Model, identity: Any, fields: Mapping[str, Any], repo: str = REPO_PLACEHOLDER) -> str:
    """The text of README.md for a full model.

    Args:
        model: The model; its pretrained config gives the licence.
        identity: Its architecture, base, tag and edits.
        fields: Metadata that replaces what is worked out here.
        repo: Hub id to show in the usage.
    """
    origin = base_model(identity.base, identity.tag)
    metadata: dict[str, Any] = {
        "library_name": "timm",
        "license": model.pretrained_cfg.get("license"),
        "base_model": origin,
        "tags": ["timm", "timm-backbones-ext", "backbone"],
        "pipeline_tag": "image-classification" if model.num_classes else "image-feature-extraction",
        **fields,
    }
    facts = describe(
        identity.architecture,
        edits=list(identity.extra) or None,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
    )
    card = ModelCard.from_template(
        ModelCardData(**{key: value for key, value in metadata.items() if value is not None}),
        template_path=str(TEMPLATE),
        title=f"{identity.architecture}{f' from {origin}' if origin else ''}",
        summary=_summary(identity, model),
        edits=parse(identity.edits),
        levels=facts.levels,
        params=f"{facts.params / 1e6:.2f}M",
        gmacs=f"{facts.gmacs:.2f}",
        input_size="x".join(map(str, facts.input_size)),
        install=identity.architecture.startswith("ext_"),
        repo=repo,
    )
    return str(card)


def _summary(identity: Any, model: Model) -> str:
    what = f"`{identity.base}`" + (
        f" with {', '.join(f'`{edit}`' for edit in identity.edits)}" if identity.edits else ""
    )
    head = f"a classifier of {model.num_classes} classes" if model.num_classes else "no classifier"
    return f"{what}, {head}; made with timm {timm.__version__} and timm-backbones-ext."
