"""What detectors do to a backbone: freeze its first stages, synchronise its batch norms, or do without them."""

import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d, DropPath
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from torch import nn

from .._types import Model
from ..layers import FROZEN
from ..layers.sync_bn import CpuSyncBatchNorm

__all__ = ["convert_groupnorm", "convert_sync_batchnorm", "freeze_at"]

ModelT = TypeVar("ModelT", bound=Model)


def freeze_at(model: ModelT, n: int) -> ModelT:
    """Freeze everything up to the maps of stride `2**n`, in place, as detectron2's `FREEZE_AT` does for ResNets.

    Frozen parameters have no gradients; batch norms become frozen ones with the same keys, which `train()` does not
    wake; nothing is dropped at random.

    Args:
        model: A full timm model of a family of this package, or a `features_only` model of it.
        n: 0 for nothing, 1 for the stem, 2 for the stem and the stage of stride 4, and so on.

    Raises:
        ValueError: `n` is no such number, or the model says nothing of its stages.
    """
    full = model.full_model() if hasattr(model, "full_model") else model
    if not hasattr(full, "feature_info"):
        raise ValueError(f"freeze_at: expected a timm model or a features_only model; got {type(model).__name__}")
    most = max(int(math.log2(info["reduction"])) for info in full.feature_info)
    if not isinstance(n, int) or not 0 <= n <= most:
        raise ValueError(f"freeze_at: n must be a whole number from 0 to {most}; got {n!r}")
    frozen = set(_first_modules(full, 2**n)) if n else set()
    name_of = getattr(model, "full_name", str)
    for name, module in list(model.named_modules()):
        if name_of(name) in frozen:
            _freeze(model, name, module)
    return model


def _first_modules(full: Model, stride: int) -> Iterator[str]:
    """Names of the modules that run up to the last level of a stride, in order; those of the stem if there is none."""
    levels = [info["module"] for info in full.feature_info if info["reduction"] <= stride]
    end = levels[-1] if levels else None
    first = full.feature_info[0]["module"]
    reached = False
    for name, _ in full.named_modules():
        inside = end is not None and (name == end or name.startswith(f"{end}."))
        if (reached and not inside) or (end is None and name == first):
            return
        reached = reached or inside
        yield name


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
    """Batch norms that share their statistics over all processes, with the same keys; frozen ones stay frozen.

    timm's conversion, which keeps the activations that timm's own norms hold; where there is no accelerator, the
    norms are of a kind that works on the CPU.
    """
    model = timm_convert_sync_batchnorm(model)
    if torch.accelerator.is_available():
        return model
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = CpuSyncBatchNorm  # the same tensors and settings with another forward pass
    return model


def convert_groupnorm(model: ModelT, num_groups: int = 32) -> ModelT:
    """Group norms in place of all batch norms, in place; weights and biases are kept.

    Not exact: the model computes something else, and has to be trained again. The number of groups is the greatest
    common divisor of `num_groups` and the width.

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
