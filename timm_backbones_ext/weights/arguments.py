"""The arguments that a config.json may pass to an architecture: those of the model's class, not of timm's builder."""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from timm.models import build_model_with_cfg, create_model, model_entrypoint

__all__ = ["allowed_arguments"]

OF_THE_BUILDER = {
    *inspect.signature(create_model).parameters,
    *inspect.signature(build_model_with_cfg).parameters,
    *("variant", "cfg", "device", "dtype", "features_only", "out_indices", "feature_cls", "pruned"),
}
"""Arguments for the caller only: the source of the weights, strictness of loading, and device."""
OF_NORMS = {"bn_eps", "bn_momentum", "bn_tf"}
"""Arguments that timm's EfficientNets take out of `kwargs`."""


def allowed_arguments(architecture: str) -> set[str]:
    """Names of the arguments that may stand under `model_args` for an architecture that timm knows."""
    entry = model_entrypoint(architecture)
    base = vars(entry).get("base")  # a variant of this package takes the arguments of its base
    entry = model_entrypoint(base) if base else entry
    names = {name for item in (entry, *_takers(entry.__module__)) for name in _names(item)}
    return (names | OF_NORMS | ({"edits", "norm_layer"} if base else set())) - OF_THE_BUILDER


def _takers(module: str) -> Iterator[object]:
    """The model classes of a timm module, their config classes, and the functions that build them."""
    for name, value in vars(sys.modules[module]).items():
        if inspect.isclass(value):
            if hasattr(value, "forward_features") or (is_dataclass(value) and name.endswith("Cfg")):
                yield value
        elif inspect.isfunction(value) and name.startswith(("_create", "_gen")):
            yield value


def _names(item: object) -> set[str]:
    if is_dataclass(item):
        return {field.name for field in fields(item)}
    classes = inspect.getmro(item) if inspect.isclass(item) else (item,)
    found: set[str] = set()
    for part in classes:  # the function that an entry function wraps
        call = vars(part).get("__init__") if inspect.isclass(part) else part
        if inspect.isfunction(call):
            kinds = inspect.signature(call).parameters.values()
            found |= {p.name for p in kinds if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return found - {"self"}
