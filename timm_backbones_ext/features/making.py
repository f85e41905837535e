"""Make models that return feature maps from full models."""

import copy
from collections.abc import Sequence
from typing import Any

from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet
from torch import nn

from .._timm import FeatureGetterNet
from .._types import Model
from .classes import FeatureDict, FeatureGetter, FeatureGraph, FeatureHook, FeatureList, NormedFeatures
from .wrapper import FeatureWrapper

__all__ = ["feature_model", "sharing", "wrap"]

_BY_NAME = {
    "list": FeatureList,
    "dict": FeatureDict,
    "hook": FeatureHook,
    "getter": FeatureGetter,
    "fx": FeatureGraph,
}
_OURS: dict[type[nn.Module], type[nn.Module]] = {
    FeatureListNet: FeatureList,
    FeatureDictNet: FeatureDict,
    FeatureHookNet: FeatureHook,
    FeatureGetterNet: FeatureGetter,
    FeatureGraphNet: FeatureGraph,
}


def wrap(
    model: Model,
    feature_cls: str | type[nn.Module] | None = None,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> Model:
    """Make a model that returns the feature maps of a full model; the full model does not change.

    Both share all tensors, so training one trains the other. Replacing a module in one does not change the other.

    Args:
        model: A full timm model with `feature_info`.
        feature_cls: "list" (the default), "dict", "hook", "getter", "fx", or a class of timm or of your own.
        out_indices: Levels to return, in this order; negative ones count from the end, an int n means the last n;
            all levels by default.
        options: Further arguments of the class, such as `return_dict` or `norm`.

    Returns:
        The feature model.

    Raises:
        ValueError: The model has no such level or no levels at all, or the class name is unknown.
    """
    if not hasattr(model, "feature_info") or isinstance(model, FeatureWrapper):
        raise ValueError(f"wrap: expected a full timm model with feature_info; got {type(model).__name__}")
    return feature_model(sharing(model), feature_cls, out_indices, **options)


def sharing(model: Model) -> Model:
    """A copy of a model's modules with the same tensors."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def feature_model(
    model: Model,
    feature_cls: str | type[nn.Module] | None = None,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> Model:
    """As `wrap`, but the model is not copied and loses its classifier."""
    cls = _feature_class(feature_cls)
    indices = _levels(out_indices, len(model.feature_info))
    model.reset_classifier(0)
    if not issubclass(cls, FeatureWrapper):
        return _described(cls(model, out_indices=tuple(indices), **options), model)
    taken, source = sorted(set(indices)), model
    if cls.inside:  # timm's wrapper removes modules from its model; the full model must keep them
        source = sharing(model)
        source._modules.pop("out_norms", None)  # they come after the wrapper
        source.prune_intermediate_layers(taken, prune_norm=not options.get("norm", False))
    else:
        options["flatten_sequential"] = any("." in info["module"] for info in model.feature_info)
    fixed = {FeatureGetter: {"prune": False}, FeatureHook: {"no_rewrite": False}}.get(cls, {})
    wrapper = cls(source, out_indices=tuple(taken), **{**options, **fixed})
    wrapper.adopt(model, indices)
    if hasattr(model, "out_norms"):
        wrapper = NormedFeatures(wrapper, model.out_norms)
    return _described(wrapper, model)


def _feature_class(spec: str | type[nn.Module] | None) -> type[nn.Module]:
    if spec is None:
        return FeatureList
    if isinstance(spec, str):
        if spec.lower() not in _BY_NAME:
            raise ValueError(f"unknown feature_cls {spec!r}; there is: {', '.join(_BY_NAME)}, or a class")
        return _BY_NAME[spec.lower()]
    return _OURS.get(spec, spec)


def _levels(out_indices: int | Sequence[int] | None, levels: int) -> list[int]:
    """Non-negative indices of the requested levels, in the requested order."""
    if out_indices is None:
        return list(range(levels))
    asked = list(range(-out_indices, 0)) if isinstance(out_indices, int) else list(out_indices)
    if not asked or any(not -levels <= i < levels for i in asked):
        raise ValueError(f"out_indices {out_indices!r}: the model has levels 0 to {levels - 1}")
    return [i % levels for i in asked]


def _described(wrapper: Model, model: Model) -> Model:
    """Set the attributes that timm's builder sets on a feature model."""
    dropped = ("num_classes", "classifier", "global_pool")
    wrapper.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in dropped}
    wrapper.default_cfg = wrapper.pretrained_cfg
    wrapper.in_chans, wrapper._traits = model.in_chans, dict(model._traits)
    wrapper.num_features = wrapper.feature_info.channels()[-1]
    return wrapper
