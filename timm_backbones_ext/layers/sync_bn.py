"""Batch norm over all processes on the CPU, where torch's own (2.15) and its DistributedDataParallel refuse to run."""

from typing import Any

import torch
from torch import Tensor, distributed, nn

__all__ = ["CpuSyncBatchNorm"]


class _Sum(torch.autograd.Function):
    """The sum over processes, of gradients too; torch's own functions for it changed between 2.6 and 2.15."""

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


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) -> (N, C, H, W); processes compute what one process computes with all their images.

    The statistics are two sums over the processes, through which gradients flow.
    """

    process_group: distributed.ProcessGroup | None = None

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
