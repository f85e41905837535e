"""Batch norm whose statistics and affine parameters never change."""

from typing import Any

import torch
import torchvision.ops
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from .sync_bn import CpuSyncBatchNorm

__all__ = ["FROZEN", "FrozenBatchNorm2d", "FrozenBatchNormAct2d", "thawed"]


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """torchvision's frozen batch norm with the whole key set of the `nn.BatchNorm2d` that it replaces.

    torchvision drops `num_batches_tracked`. Here it is kept, so that checkpoints load and save unchanged.
    """

    @classmethod
    def replacing(cls, norm: Any) -> "FrozenBatchNorm2d":
        """A frozen norm with the tensors of `norm`; its parameters become buffers."""
        frozen = cls(norm.num_features, eps=norm.eps)
        for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
            frozen.register_buffer(name, tensor.detach())
        for name, child in norm.named_children():
            frozen.add_module(name, child)
        return frozen.train(norm.training)

    def reset_parameters(self) -> None:
        """Set the statistics and the affine parameters to the values of a new batch norm."""
        for name, value in dict(weight=1, bias=0, running_mean=0, running_var=1, num_batches_tracked=0).items():
            torch.nn.init.constant_(self.get_buffer(name), value)

    def _load_from_state_dict(self, *args: Any) -> None:  # ty: ignore[incompatible-method-override]
        nn.Module._load_from_state_dict(self, *args)  # torchvision's would throw num_batches_tracked away


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """A frozen `timm.layers.BatchNormAct2d`: a frozen norm, then the activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.act(self.drop(super().forward(x)))


FROZEN: dict[type[nn.Module], type[FrozenBatchNorm2d]] = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.SyncBatchNorm: FrozenBatchNorm2d,
    CpuSyncBatchNorm: FrozenBatchNorm2d,
    BatchNormAct2d: FrozenBatchNormAct2d,
}


def thawed(model: Any) -> Any:
    """Replace frozen batch norms by plain ones, in place; in eval mode outputs stay the same up to rounding."""
    for name, frozen in list(model.named_modules()):
        if isinstance(frozen, FrozenBatchNorm2d):
            act = isinstance(frozen, FrozenBatchNormAct2d)
            norm: Any = (BatchNormAct2d if act else nn.BatchNorm2d)(len(frozen.weight), eps=frozen.eps, device="meta")
            norm.load_state_dict(frozen.state_dict(), assign=True)
            for child, module in frozen.named_children():
                norm.add_module(child, module)
            model.set_submodule(name, norm.train(frozen.training))
    return model
