"""EfficientNets whose batch norms and activations are modules of their own, for code that replaces batch norms.

timm's `BatchNormAct2d` is a batch norm that holds its activation. Whoever replaces every `nn.BatchNorm2d`, as DETR in
transformers, `SyncBatchNorm.convert_sync_batchnorm` and detectron2 do, throws the activation away with it. Here `act1`
stands beside `bn1` and has no tensors, so that all keys stay; each class below is timm's but for that in `forward`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torchvision.ops
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from timm.layers import FrozenBatchNormAct2d as TimmFrozenBatchNormAct2d
from timm.models import EfficientNet, checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from .._timm import (
    CondConvResidual,
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    feature_take_indices,
)
from .._types import Model
from .frozen import FrozenBatchNorm2d, FrozenBatchNormAct2d

__all__ = ["FUSED", "SplitEfficientNet", "split"]

Layer = Callable[..., Any]
"""A child module, as `nn.Module` annotates its own `forward`: the one annotation of a module that TorchScript takes."""
FUSED: dict[type[nn.Module], type[nn.Module]] = {
    BatchNormAct2d: nn.BatchNorm2d,
    SyncBatchNormAct: nn.SyncBatchNorm,
    FrozenBatchNormAct2d: FrozenBatchNorm2d,
    TimmFrozenBatchNormAct2d: torchvision.ops.FrozenBatchNorm2d,
}
"""Batch norms that hold an activation, and what each is without."""


class SplitConvBnAct(ConvBnAct):
    """timm's block of a conv, a norm and an activation."""

    aa: Layer
    act1: Layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = x
        x = self.aa(self.act1(self.bn1(self.conv(x))))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class SplitDepthwiseSeparableConv(DepthwiseSeparableConv):
    """timm's block of a depthwise and a pointwise conv."""

    aa: Layer
    act1: Layer
    act2: Layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = x
        if self.conv_s2d is not None:
            x = self.act_s2d(self.bn_s2d(self.conv_s2d(x)))  # ty: ignore[not-callable] none of them is None then
        x = self.act1(self.bn1(self.conv_dw(x)))
        x = self.se(self.aa(x))
        x = self.act2(self.bn2(self.conv_pw(x)))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class SplitInvertedResidual(InvertedResidual):
    """timm's MBConv."""

    aa: Layer
    act1: Layer
    act2: Layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = x
        if self.conv_s2d is not None:
            x = self.act_s2d(self.bn_s2d(self.conv_s2d(x)))  # ty: ignore[not-callable] none of them is None then
        x = self.act1(self.bn1(self.conv_pw(x)))
        x = self.act2(self.bn2(self.conv_dw(x)))
        x = self.se(self.aa(x))
        x = self.bn3(self.conv_pwl(x))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class SplitCondConvResidual(CondConvResidual):
    """timm's MBConv whose convs are mixed for each image."""

    act1: Layer
    act2: Layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = x
        routing = torch.sigmoid(self.routing_fn(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        x = self.act1(self.bn1(self.conv_pw(x, routing)))
        x = self.act2(self.bn2(self.conv_dw(x, routing)))
        x = self.bn3(self.conv_pwl(self.se(x), routing))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class SplitEdgeResidual(EdgeResidual):
    """timm's fused MBConv."""

    aa: Layer
    act1: Layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = x
        x = self.act1(self.bn1(self.conv_exp(x)))
        x = self.se(self.aa(x))
        x = self.bn2(self.conv_pwl(x))
        if self.has_skip:
            x = self.drop_path(x) + shortcut
        return x


class SplitEfficientNet(EfficientNet):
    """timm's EfficientNet with `act1` after the norm of the stem and `act2` after that of the head."""

    act1: Layer
    act2: Layer

    def as_sequential(self) -> nn.Sequential:
        """The model as a sequence of its parts."""
        parts: list[Any] = [self.conv_stem, self.bn1, self.act1, *self.blocks, self.conv_head, self.bn2, self.act2]
        return nn.Sequential(*parts, self.global_pool, nn.Dropout(self.drop_rate), self.classifier)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        extra_blocks: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """(N, C, H, W) -> what the head's conv gives, and the maps at `indices`; the arguments are timm's."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW'; got {output_fmt!r}")
        ends = list(range(len(self.blocks) + 1)) if extra_blocks else self.stage_ends
        taken, last = feature_take_indices(len(ends), indices)
        wanted = {ends[i] for i in taken}
        count = ends[last] if stop_early else len(self.blocks)
        maps = [self.act1(self.bn1(self.conv_stem(x)))]
        for stage in self.blocks[:count]:
            maps.append(checkpoint_seq(stage, maps[-1]) if self.grad_checkpointing else stage(maps[-1]))
        intermediates = [level for i, level in enumerate(maps) if i in wanted]
        if intermediates_only:
            return intermediates
        x = maps[-1]
        if count == self.stage_ends[-1]:
            x = self.act2(self.bn2(self.conv_head(x)))
        return x, intermediates

    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> list[int]:
        """Drop what the maps at the given indices do not need; the arguments are timm's."""
        taken = super().prune_intermediate_layers(*args, **kwargs)
        if isinstance(self.bn2, nn.Identity):
            self.act2 = nn.Identity()
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, H', W')."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x, flatten=True)
        else:
            x = self.blocks(x)
        return self.act2(self.bn2(self.conv_head(x)))


_ACTIVE = {
    EfficientNet: (SplitEfficientNet, ("bn1", "bn2")),
    ConvBnAct: (SplitConvBnAct, ("bn1",)),
    DepthwiseSeparableConv: (SplitDepthwiseSeparableConv, ("bn_s2d", "bn1", "bn2")),
    InvertedResidual: (SplitInvertedResidual, ("bn_s2d", "bn1", "bn2")),
    CondConvResidual: (SplitCondConvResidual, ("bn1", "bn2")),
    EdgeResidual: (SplitEdgeResidual, ("bn1",)),
}
"""By timm's class: ours, and the norms that are followed by an activation."""


def split(model: Model) -> bool:
    """Take the activations out of all batch norms of a timm EfficientNet, in place; whether there were any.

    Raises:
        ValueError: A block is of a class that this package does not know.
    """
    owners = [
        (name, module) for name, module in model.named_modules() if any(type(c) in FUSED for c in module.children())
    ]
    if unknown := [f"{name} ({type(module).__name__})" for name, module in owners if type(module) not in _ACTIVE]:
        raise ValueError(f"cannot take activations out of the batch norms of {', '.join(unknown)}")
    for _, module in owners:
        cls, active = _ACTIVE[type(module)]
        for name in active:
            _take_activation(module, name)
        for name, child in list(module.named_children()):
            if type(child) in FUSED:  # one without an activation
                setattr(module, name, _bare(child))
        module.__class__ = cls
    for info in model.feature_info if owners else ():
        if info["module"] == "bn1":
            info["module"] = "act1"
    return bool(owners)


def _take_activation(owner: nn.Module, name: str) -> None:
    """Put the activation of a norm beside it, next in order."""
    fused = getattr(owner, name)
    if type(fused) not in FUSED:
        owner.add_module(name.replace("bn", "act"), None if fused is None else nn.Identity())
        return
    dropping = type(fused.drop) is not nn.Identity
    activation = nn.Sequential(fused.drop, fused.act) if dropping else fused.act
    children = list(owner._modules.items())
    owner._modules.clear()
    for key, child in children:
        owner.add_module(key, _bare(fused) if key == name else child)
        if key == name:
            owner.add_module(name.replace("bn", "act"), activation)


def _bare(fused: nn.Module) -> nn.Module:
    """The norm alone, with the same tensors."""
    bare = copy.copy(fused)
    bare._modules = {}
    bare.__class__ = FUSED[type(fused)]
    return bare
