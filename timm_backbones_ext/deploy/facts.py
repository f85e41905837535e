"""The facts of a model that a consumer without this package needs: image, levels, labels, origin."""

from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

from .._types import Model
from .._version import __version__
from ..detection import Pyramid
from ..features import FeatureWrapper
from ..fingerprints import digest
from ..saving.card import base_model
from ..saving.folder import normalisation
from ..saving.identity import identify
from .loading import FORMAT

__all__ = ["facts_of"]


def facts_of(model: Model) -> dict[str, Any]:
    """Facts of a model for JSON: architecture, base, edits, licence, digest, image, levels, classes and labels."""
    body = model.body if isinstance(model, Pyramid) else model
    full = body.full_model() if isinstance(body, FeatureWrapper) else body
    classes = 0 if isinstance(model, Pyramid) else getattr(model, "num_classes", 0)
    return {
        "format": FORMAT,
        "timm_backbones_ext": __version__,
        **_origin(full),
        "digest": digest(full),
        "image": _image(full),
        "levels": _levels(model),
        "classes": classes,
        "labels": _labels(full, classes),
    }


def _origin(full: Model) -> dict[str, Any]:
    """Names and licence; a wrapper of timm's own knows its architecture alone."""
    cfg = getattr(full, "pretrained_cfg", {})
    found: dict[str, Any] = {"architecture": cfg.get("architecture") or type(full).__name__, "base": None, "edits": []}
    try:
        identity = identify(full)
    except ValueError:
        return {**found, "license": cfg.get("license")}
    base = f"{identity.base}.{identity.tag}" if identity.tag else identity.base
    licence = cfg.get("license") or base_model(identity.base, identity.tag)[1]
    return {"architecture": identity.architecture, "base": base, "edits": list(identity.edits), "license": licence}


def _image(full: Model) -> dict[str, Any]:
    """Channels, size and how a photo becomes an image; mean and std are one per channel."""
    data = resolve_data_config(pretrained_cfg=getattr(full, "pretrained_cfg", {}))
    channels = getattr(full, "in_chans", data["input_size"][0])
    normal = normalisation(full) if hasattr(full, "in_chans") else {key: data[key] for key in ("mean", "std")}
    kept = {key: data[key] for key in ("interpolation", "crop_pct", "crop_mode")}
    return {"size": [channels, *data["input_size"][1:]], **{k: list(v) for k, v in normal.items()}, **kept}


def _levels(model: Model) -> list[dict[str, Any]]:
    """Name, channels and stride of each map, in the model's order; of a full model, of the maps that it could give."""
    if isinstance(model, Pyramid):
        shapes = model.output_shape().items()
        return [{"name": name, "channels": level.channels, "stride": level.stride} for name, level in shapes]
    info = getattr(model, "feature_info", None) or []
    rows = info if isinstance(info, list) else info.get_dicts()
    return [{"name": row["module"], "channels": row["num_chs"], "stride": row["reduction"]} for row in rows]


def _labels(full: Model, classes: int) -> list[str] | None:
    """Names of the classes: those of the config, else those of the ImageNet with so many classes."""
    cfg = getattr(full, "pretrained_cfg", {})
    names, words = cfg.get("label_names"), cfg.get("label_descriptions") or {}
    if names and len(names) == classes:
        return [words.get(name, name) for name in names]
    subset = infer_imagenet_subset({"num_classes": classes})
    return list(ImageNetInfo(subset).label_descriptions()) if subset else None
