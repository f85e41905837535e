"""EfficientNets whose batch norms and activations are separate modules, for code that replaces batch norms.

timm's `BatchNormAct2d` is a batch norm that contains its activation. DETR in transformers,
`SyncBatchNorm.convert_sync_batchnorm` and detectron2 replace every `nn.BatchNorm2d`, and so remove the activation. Here
`act1` is a module next to `bn1`; it has no tensors, so all keys stay. Each class below is timm's with another
`forward`; a test compares timm's source with the copied one (tests/canaries/test_copied_forwards.py).
"""

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
from .sync_bn import take_tensors

__all__ = ["FUSED", "SplitEfficientNet", "split"]

Layer = Callable[..., Any]
"""Annotation of a child module, as of `nn.Module.forward`: the only annotation of a module that TorchScript accepts."""
FUSED: dict[type[nn.Module], type[nn.Module]] = {
    BatchNormAct2d: nn.BatchNorm2d,
    SyncBatchNormAct: nn.SyncBatchNorm,
    FrozenBatchNormAct2d: FrozenBatchNorm2d,
    TimmFrozenBatchNormAct2d: torchvision.ops.FrozenBatchNorm2d,
}
"""Class of a batch norm with an activation -> class without the activation."""


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
    """timm's MBConv with conditional convs, whose weights are mixed per image."""

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
    """timm's EfficientNet with `act1` after the norm of the stem and `act2` after the norm of the head."""

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
        """(N, C, H, W) -> output of the head's conv, and the maps at `indices`; arguments as in timm."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW'; got '{output_fmt}'")
        ends = [i for i in range(len(self.blocks) + 1)] if extra_blocks else self.stage_ends
        taken, last = feature_take_indices(len(ends), indices)
        wanted = [ends[i] for i in taken]
        count = ends[last] if stop_early else len(self.blocks)
        x = self.act1(self.bn1(self.conv_stem(x)))
        intermediates = [x] if 0 in wanted else []
        for index, stage in enumerate(self.blocks, start=1):
            if index <= count:
                if self.grad_checkpointing and not torch.jit.is_scripting():  # noqa: SIM108 TorchScript
                    x = checkpoint_seq(stage, x)
                else:
                    x = stage(x)
                if index in wanted:
                    intermediates.append(x)
        if intermediates_only:
            return intermediates
        if count == self.stage_ends[-1]:
            x = self.act2(self.bn2(self.conv_head(x)))
        return x, intermediates

    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> list[int]:
        """Remove modules that the maps at the given indices do not need; arguments as in timm."""
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
"""timm's class -> our class, and the names of the norms before an activation."""


def split(model: Model) -> bool:
    """Split all batch norms of a timm EfficientNet from their activations, in place.

    Returns:
        Whether any batch norm had an activation.

    Raises:
        ValueError: The class of a block is unknown.
    """
    owners = [
        (name, module) for name, module in model.named_modules() if any(type(c) in FUSED for c in module.children())
    ]
    if unknown := [f"{name} ({type(module).__name__})" for name, module in owners if type(module) not in _ACTIVE]:
        raise ValueError(f"cannot take activations out of the batch norms of {', '.join(unknown)}")
    for name, module in owners:
        cls, active = _ACTIVE[type(module)]
        for norm in active:
            _take_activation(module, norm)
        for norm, child in list(module.named_children()):
            if type(child) in FUSED:  # one without an activation
                setattr(module, norm, _bare(child))
        if module is model:
            model.__class__ = cls  # the caller holds this object, so it cannot be replaced by another
        else:
            model.set_submodule(name, recast(module, cls))
    for info in model.feature_info if owners else ():
        if info["module"] == "bn1":
            info["module"] = "act1"
    return bool(owners)


def _take_activation(owner: nn.Module, name: str) -> None:
    """Move the activation of a norm into the module's owner, next after the norm."""
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


def _bare(fused: Any) -> nn.Module:
    """The norm without its activation, with the same tensors and settings."""
    if not isinstance(fused, nn.modules.batchnorm._BatchNorm):  # a frozen one
        return take_tensors(FUSED[type(fused)](fused.weight.numel(), eps=fused.eps), fused)
    settings = (fused.num_features, fused.eps, fused.momentum, fused.affine, fused.track_running_stats)
    bare = take_tensors(FUSED[type(fused)](*settings, device="meta"), fused)
    if isinstance(bare, nn.SyncBatchNorm):
        bare.process_group = fused.process_group
    return bare


def recast(module: nn.Module, cls: type[nn.Module]) -> nn.Module:
    """An object of class `cls` with the attributes of a module: its tensors, children, hooks and settings.

    For classes that differ only in their methods. timm's constructors would make new children.
    """
    made = cls.__new__(cls)
    made.__dict__.update(module.__dict__)
    return made
