"""Batch norm over all processes, also on the CPU, where `nn.SyncBatchNorm` (torch 2.15) fails."""

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn

__all__ = ["CpuSyncBatchNorm", "synchronised", "take_tensors"]


class _Sum(torch.autograd.Function):
    """Differentiable sum over processes; torch's functions for it changed between 2.6 and 2.15."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
        ctx.group, total = group, value.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone()
        distributed.all_reduce(total, group=ctx.group)
        return total, None


def take_tensors(norm: Any, other: nn.Module) -> Any:
    """Give a norm the parameters, buffers and training mode of another norm."""
    for name, parameter in other.named_parameters(recurse=False):
        norm.register_parameter(name, parameter)
    for name, buffer in other.named_buffers(recurse=False):
        norm.register_buffer(name, buffer)
    return norm.train(other.training)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) -> (N, C, H, W); n processes compute the same as one process with all their images.

    The statistics are two sums over the processes, through which gradients flow.
    """

    process_group: distributed.ProcessGroup | None = None

    @classmethod
    def replacing(cls, norm: nn.SyncBatchNorm) -> "CpuSyncBatchNorm":
        """A norm with the tensors and settings of an `nn.SyncBatchNorm`."""
        settings = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made = take_tensors(cls(*settings, device="meta"), norm)
        made.process_group = norm.process_group
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the statistics of all processes, or with the running ones in eval mode."""
        if not self.training or not distributed.is_available() or not distributed.is_initialized():
            return super().forward(input)
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        count = input.new_tensor(input.numel() / input.shape[1])
        distributed.all_reduce(count, group=self.process_group)
        mean = _Sum.apply(input.sum(axes), self.process_group) / count
        centred = input - mean.reshape(shape)
        var = _Sum.apply(centred.square().sum(axes), self.process_group) / count
        self._remember(mean.detach(), var.detach() * count / (count - 1))
        scale = (var + self.eps).rsqrt()
        if self.affine:
            return centred * (scale * self.weight).reshape(shape) + self.bias.reshape(shape)
        return centred * scale.reshape(shape)

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        rate = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(var, rate)


def synchronised(model: Any) -> Any:
    """Replace batch norms by synchronised ones; without an accelerator these are `CpuSyncBatchNorm`."""
    model = convert_sync_batchnorm(model)
    if torch.accelerator.is_available():
        return model
    if type(model) is nn.SyncBatchNorm:
        return CpuSyncBatchNorm.replacing(model)
    made: dict[nn.Module, nn.Module] = {}  # a norm that has two names stays one norm
    for name, norm in list(model.named_modules(remove_duplicate=False)):
        if type(norm) is nn.SyncBatchNorm:
            made[norm] = made.get(norm) or CpuSyncBatchNorm.replacing(norm)
            model.set_submodule(name, made[norm])
    return model
