"""Freeze the first stages of a backbone, and synchronise or replace its batch norms."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from timm.layers import BatchNormAct2d, DropPath
from torch import nn

from .._types import Model
from ..layers import FROZEN, synchronised

__all__ = ["convert_groupnorm", "convert_sync_batchnorm", "freeze_at"]

ModelT = TypeVar("ModelT", bound=Model)


def freeze_at(model: ModelT, n: int) -> ModelT:
    """Freeze everything up to the maps of stride `2**n`, in place, as detectron2's `FREEZE_AT` does for ResNets.

    Frozen parameters get no gradients. Frozen batch norms with the same keys replace batch norms; `train()` does not
    change them. Dropout and stochastic depth are off in the frozen part.

    Args:
        model: A full or a `features_only` model of this package or of timm.
        n: 0 for nothing, 1 for the stem, 2 for the stem and the levels of stride 4, and so on.

    Returns:
        The same model.

    Raises:
        ValueError: `n` is out of range, or the module at the end of the level is not found, as in timm's HRNet, whose
            stages run in parallel.
    """
    full = model.full_model() if hasattr(model, "full_model") else model
    if not hasattr(full, "feature_info"):
        raise ValueError(f"freeze_at: expected a timm model or a features_only model; got {type(model).__name__}")
    infos = getattr(full.feature_info, "info", full.feature_info)  # timm's wrappers hold an object, full models a list
    most = max(int(math.log2(info["reduction"])) for info in infos)
    if not isinstance(n, int) or not 0 <= n <= most:
        raise ValueError(f"freeze_at: n must be a whole number from 0 to {most}; got {n!r}")
    name_of = getattr(model, "full_name", None) or functools.partial(_unwrapped, infos)
    frozen = set(_first_modules(full, infos, 2**n, name_of)) if n else set()
    for name, module in list(model.named_modules()):
        if name_of(name) in frozen:
            _freeze(model, name, module)
    return model


def _unwrapped(infos: Sequence[dict[str, Any]], name: str) -> str:
    """The name in `feature_info` of a module in timm's wrappers, which rename `stages.0` to `stages_0`."""
    flat = {info["module"].replace(".", "_", 1): info["module"] for info in infos}
    for prefix in ("model.", "body.", "graph_module."):
        name = name.removeprefix(prefix)
    head, dot, rest = name.partition(".")
    return flat.get(head, head) + dot + rest


def _first_modules(
    full: Model, infos: Sequence[dict[str, Any]], stride: int, name_of: Callable[[str], str]
) -> list[str]:
    """Names of the modules up to the last level of a stride, in order; only the stem if there is no such level."""
    levels = [info["module"] for info in infos if info["reduction"] <= stride]
    end = levels[-1] if levels else infos[0]["module"]
    names = [name_of(name) for name, _ in full.named_modules()]
    inside = [i for i, name in enumerate(names) if name == end or name.startswith(f"{end}.")]
    if not inside:
        raise ValueError(
            f"freeze_at: {type(full).__name__} has no module {end!r}, where its feature_info says that the level of "
            f"stride {stride} ends; set requires_grad of its parameters yourself"
        )
    return names[: inside[-1] + 1] if levels else names[: inside[0]]


def _freeze(model: Model, name: str, module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad_(False)
    if isinstance(module, DropPath):
        module.drop_prob = 0.0
    elif isinstance(module, nn.modules.dropout._DropoutNd):
        module.p = 0.0
    elif type(module) in FROZEN:
        model.set_submodule(name, FROZEN[type(module)].replacing(module))


def convert_sync_batchnorm(model: ModelT) -> ModelT:
    """Replace batch norms by synchronised ones with the same keys; frozen batch norms stay frozen.

    Uses timm's conversion, which keeps the activations inside timm's norms. Without an accelerator, the new norms are
    of a class that works on the CPU.

    Returns:
        The model; a new module if `model` itself is a batch norm.
    """
    return synchronised(model)


def convert_groupnorm(model: ModelT, num_groups: int = 32) -> ModelT:
    """Replace all batch norms by group norms, in place; weights and biases are kept.

    This is not exact: the model computes another function and must be trained again. The number of groups is the
    greatest common divisor of `num_groups` and the number of channels.

    Returns:
        The same model.

    Raises:
        ValueError: The model has no batch norm, or one that holds an activation.
    """
    norms = [(name, norm) for name, norm in model.named_modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    if fused := [name for name, norm in norms if isinstance(norm, BatchNormAct2d)]:
        raise ValueError(
            f"convert_groupnorm: {fused[0]} holds an activation; take it out first: tbx.edit(model, 'split_norm_act')"
        )
    if not norms:
        raise ValueError(f"convert_groupnorm: {type(model).__name__} has no batch norm")
    for name, norm in norms:
        groups = nn.GroupNorm(math.gcd(num_groups, norm.num_features), norm.num_features, eps=norm.eps, device="meta")
        groups.weight, groups.bias = norm.weight, norm.bias
        model.set_submodule(name, groups.train(norm.training))
    return model
