"""The identity of a model: name, edits and arguments. It is found once and then passed on as one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch.distributed.tensor import DTensor

from .._types import Model
from ..edits import parse_edits
from ..fingerprints import unwrap
from ..norm_layer import is_runtime
from ..registry import BUILT_IN, VARIANTS
from ..weights.delta import Base

__all__ = ["Identity", "created_with", "identify"]

RUNTIME = ("features_only", "out_indices", "feature_cls", "feature_cfg", "edits", "device", "dtype")
"""Arguments of `timm.create_model` that do not describe the model itself; edits are saved separately."""


@dataclass(frozen=True, eq=False)
class Identity:
    """A model, and the names and arguments by which another machine can create it."""

    model: Model
    """The full model inside the wrappers. It is the caller's own object and is never changed."""
    wrappers: tuple[str, ...]
    """Classes of the wrappers around it, outermost first."""
    architecture: str
    """Name for `timm.create_model`; this package or timm registers it."""
    base: str
    tag: str | None
    edits: tuple[str, ...]
    """All edits, including those of the architecture."""
    extra: tuple[str, ...]
    """The edits to pass as `edits=`."""
    args: Mapping[str, Any]
    """Arguments of `timm.create_model`; a frozen batch norm is saved as an edit instead."""
    weights_base: Base | None
    """The Hub file of its weights, if this package created the model with pretrained weights."""
    sharded: bool
    """Whether tensors are spread over ranks, by FSDP or tensor parallelism."""


def identify(model: Model) -> Identity:
    """Find the name, the edits and the arguments that create the model again.

    Args:
        model: A full timm model, or one inside DDP, DataParallel, torch.compile or a feature wrapper.

    Raises:
        ValueError: The wrapper holds no full model, or the model is edited and its base has no `ext_` name here.
    """
    full = unwrap(model)
    around = _around(model, full)
    architecture, base, edits, extra = _named(full)
    return Identity(
        model=full,
        wrappers=tuple(type(item).__name__ for item in around),
        architecture=architecture,
        base=base,
        tag=full.pretrained_cfg.get("tag"),
        edits=edits,
        extra=extra,
        args=MappingProxyType({key: value for item in (*around, full) for key, value in created_with(item).items()}),
        weights_base=getattr(full, "weights_base", None),
        sharded=any(isinstance(value, DTensor) for value in full.state_dict().values()),
    )


def _around(model: Model, full: Model) -> list[Model]:
    """The wrappers around a full model, outermost first."""
    found = []
    while model is not full:
        found.append(model)
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        model = full if inner is None else inner
    return found


def created_with(model: Model) -> dict[str, Any]:
    """Arguments of `timm.create_model` for a model, without those in `RUNTIME`."""
    args = {key: value for key, value in getattr(model, "_model_args", {}).items() if key not in RUNTIME}
    return {key: value for key, value in args.items() if key != "norm_layer" or not is_runtime(value)}


def _named(model: Model) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """Architecture, base, all edits, and the edits beyond those of the architecture."""
    name, edits = model.pretrained_cfg["architecture"], tuple(getattr(model, "edits", ()))
    variant = VARIANTS.get(name)
    base = variant.base if variant else name
    if variant is None and not edits:
        return name, base, (), ()
    presets = {
        item: tuple(map(str, parse_edits(VARIANTS[item].edits))) for item in BUILT_IN if VARIANTS[item].base == base
    }
    fitting = [item for item, preset in presets.items() if edits[: len(preset)] == preset]
    if not fitting:
        known = [f"{item} ({', '.join(preset) or 'no edits'})" for item, preset in sorted(presets.items())]
        raise ValueError(
            f"{base} with the edits {', '.join(edits) or '(none)'} has no name in timm-backbones-ext that others could "
            f"create it by; names for this base, with the edits that come first: {'; '.join(known) or 'none'}"
        )
    if name not in fitting:  # a user's own name, a timm model edited in place, or a variant whose edits are merged
        name = min(fitting, key=lambda item: (len(presets[item]), item))
    return name, base, edits, edits[len(presets[name]) :]
