"""A conv that edits extend: more input channels, a larger kernel, parallel branches, a gate. Its keys stay."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, get_same_padding, pad_same
from timm.models import register_notrace_module
from torch import Tensor, nn

from .._types import Model

__all__ = ["Added", "Branch", "ExtendedConv2d"]


class Added(nn.Module):
    """What an edit added beside the base's modules: none of its tensors is the base's."""

    def reset_identity(self) -> None:
        """Set the tensors so that the model computes what it computes without this module."""
        raise NotImplementedError


class Branch(Added):
    """Conv and batch norm in parallel to a conv; adds nothing while the norm's weight is zero."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, device=conv.weight.device, dtype=conv.weight.dtype)
        self.reset_identity()

    def reset_identity(self) -> None:
        """Zero the norm's weight and bias; the conv keeps its weights, so the norm's gradient is not zero."""
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        return self.norm(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, in float64, of the conv that computes the same in eval mode."""
        norm, double = self.norm, torch.float64
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a branch whose norm keeps no running statistics cannot be merged")
        scale = norm.weight.to(double) / (norm.running_var.to(double) + norm.eps).sqrt()
        weight = self.conv.weight.to(double) * scale[:, None, None, None]
        return weight, norm.bias.to(double) - norm.running_mean.to(double) * scale


@register_notrace_module
class ExtendedConv2d(nn.Conv2d):
    """(N, C_in, H, W) -> (N, C_out, H', W'): gate(conv(x) + sum of branches(x)).

    It starts with the parameters of the conv it replaces, under the same names, and can be extended again and again,
    in any order: `grow` puts zeros around the weights, `branches` and `gate` hold modules that start neutral.
    """

    kept: tuple[int, int, int, int, int]
    """Where the base's weights lie: input channels before this one; rows from, to; columns from, to."""
    margin: tuple[int, int, int, int]
    """Zeros to add left, right, above and below, beyond the conv's own symmetric padding."""
    same: bool
    """Pad as TensorFlow does, by an amount that depends on the image size; timm's Conv2dSame."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept = (self.weight.shape[1], 0, self.weight.shape[2], 0, self.weight.shape[3])
        self.margin, self.uneven, self.same = (0, 0, 0, 0), False, False
        self.branches = nn.ModuleDict()
        self.gate: nn.Module = nn.Identity()

    @classmethod
    def replacing(cls, conv: Model) -> "ExtendedConv2d":
        """An extended conv with the parameters of `conv`, which may be one already.

        Raises:
            ValueError: `conv` is no plain conv.
        """
        if isinstance(conv, cls):
            return conv
        if type(conv) not in (nn.Conv2d, Conv2dSame) or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"expected a plain conv with zero padding; got {conv}")
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        extended = cls(*shape, conv.groups, conv.bias is not None, device="meta", dtype=conv.weight.dtype)
        extended.weight, extended.bias = conv.weight, conv.bias
        extended.same = type(conv) is Conv2dSame
        return extended.train(conv.training)

    @classmethod
    def dense(cls, conv: Model, dilation: int) -> "ExtendedConv2d":
        """A downsampling conv at every position; its window begins where it began, so zeros go to the end."""
        dense = cls.replacing(conv)
        dense.stride, dense.dilation = (1, 1), (dilation, dilation)
        dense.pad_by(0, dilation * (conv.kernel_size[1] - 1), 0, dilation * (conv.kernel_size[0] - 1))
        return dense

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter] x as everywhere here
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        padded = x
        if self.same:
            padded = pad_same(x, self.weight.shape[-2:], self.stride, self.dilation)  # ty: ignore[invalid-argument-type]
        elif self.uneven:
            padded = F.pad(x, self.margin)
        y = F.conv2d(padded, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        for branch in self.branches.values():
            y = y + branch(x)
        return self.gate(y)

    def grow(self, in_channels: int = 0, above: int = 0, below: int = 0, left: int = 0, right: int = 0) -> None:
        """Put zero weights after the input channels and around the kernel; sizes of outputs stay."""
        around = (left, right, above, below)
        grown = F.pad(self.weight.detach(), (*around, 0, in_channels))
        self.weight = nn.Parameter(grown, requires_grad=self.weight.requires_grad)
        self.in_channels += in_channels
        self.kernel_size = tuple(self.weight.shape[2:])
        channels, top, bottom, start, end = self.kept
        self.kept = (channels, top + above, bottom + above, start + left, end + left)
        if not self.same:
            rows, columns = self.dilation
            self.pad_by(*(n + step * d for n, step, d in zip(self._pads(), around, (columns, columns, rows, rows))))
        if in_channels:
            for branch in self._branches():
                branch.conv.grow(in_channels)

    def _branches(self) -> Iterator[Model]:
        """The branches, with convs that can be extended."""
        branch: Model
        for branch in self.branches.values():
            branch.conv = ExtendedConv2d.replacing(branch.conv)
            yield branch

    def _pads(self) -> tuple[int, int, int, int]:
        rows, columns = self.padding
        return tuple(n + p for n, p in zip(self.margin, (columns, columns, rows, rows)))  # ty: ignore[unsupported-operator]

    def pad_by(self, left: int, right: int, above: int, below: int) -> None:
        """Pad by fixed amounts, in pixels."""
        self.padding = rows, columns = min(above, below), min(left, right)
        self.margin = (left - columns, right - columns, above - rows, below - rows)
        self.uneven, self.same = any(self.margin), False

    def dilate(self, factor: int) -> None:
        """Multiply the steps between weights, of the branches too; sizes of outputs stay."""
        self.dilation = (factor * self.dilation[0], factor * self.dilation[1])
        self.pad_by(*(factor * n for n in self._pads()))
        for branch in self._branches():
            branch.conv.dilate(factor)

    def pad_statically(self) -> None:
        """Turn 'same' padding into the fixed one that equals it where each side is a multiple of the stride."""
        size = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (get_same_padding(stride, kernel, stride, dilation) for kernel, stride, dilation in size)
        self.pad_by(columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)

    def add_branch(self, name: str, kernel_size: tuple[int, int], dilation: int = 1) -> None:
        """Add a conv with batch norm whose kernel, with holes of `dilation`, lies centred in this conv's kernel.

        Raises:
            ValueError: The kernel does not fit, or this conv's padding is not that of a centred kernel.
        """
        steps = [dilation * step for step in self.dilation]
        centred = tuple(step * (side - 1) // 2 for side, step in zip(self.kernel_size, self.dilation, strict=True))
        spans = [dilation * (side - 1) + 1 for side in kernel_size]
        if any((side - span) % 2 or span > side for side, span in zip(self.kernel_size, spans, strict=True)):
            raise ValueError(f"a branch of {kernel_size} with dilation {dilation} does not fit in {self.kernel_size}")
        if self.padding != centred or self.uneven or self.same:
            raise ValueError(f"expected a conv with padding {centred}; got {self}")
        padding = tuple(step * (side - 1) // 2 for side, step in zip(kernel_size, steps, strict=True))
        conv = nn.Conv2d(
            *(self.in_channels, self.out_channels, kernel_size, self.stride, padding, tuple(steps), self.groups),  # ty: ignore[invalid-argument-type]
            bias=False,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        self.branches[name] = Branch(conv).train(self.training)

    def merge_branches(self) -> Tensor:
        """Fold the branches into the weight; (C_out,) is what they add to the output everywhere, in float64.

        Exact in eval mode. The bias is left alone, since the conv may have none: the caller knows where it goes.
        """
        weight = self.weight.detach().to(torch.float64, copy=True)
        shift = weight.new_zeros(self.out_channels)
        for branch in self._branches():
            part, bias = branch.folded()
            window = [slice(None), slice(None)]
            for axis, (side, first, last) in enumerate(zip(part.shape[2:], self.kept[1::2], self.kept[2::2])):
                step = branch.conv.dilation[axis] // self.dilation[axis]
                span = step * (side - 1) + 1
                start = (first + last - span) // 2  # centred on the base's kernel
                window.append(slice(start, start + span, step))
            weight[tuple(window)] += part.detach()
            shift += bias.detach()
        self.weight = nn.Parameter(weight.to(self.weight), requires_grad=self.weight.requires_grad)
        self.branches = nn.ModuleDict()
        return shift

    def fuse(self) -> nn.Conv2d:
        """This conv with its branches folded into weight and bias, in its simplest form; exact in eval mode.

        `timm.utils.reparameterize_model` and the `--reparam` option of timm's scripts call it.
        """
        if self.branches:
            shift = self.merge_branches()
            bias = shift if self.bias is None else shift + self.bias.detach()
            self.bias = nn.Parameter(bias.to(self.weight), requires_grad=self.weight.requires_grad)
        return self.simplest()

    def reset_identity(self) -> None:
        """Zero all weights that are not the base's."""
        channels, top, bottom, start, end = self.kept
        new = torch.ones_like(self.weight, dtype=torch.bool)
        new[:, :channels, top:bottom, start:end] = False
        with torch.no_grad():
            self.weight.masked_fill_(new, 0)

    def simplest(self) -> nn.Conv2d:
        """A plain conv with the same parameters if nothing is extended; otherwise this one."""
        extended = self.same or self.uneven or len(self.branches) or not isinstance(self.gate, nn.Identity)
        if extended or self.kept != (self.weight.shape[1], 0, self.weight.shape[2], 0, self.weight.shape[3]):
            return self
        shape = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation)
        plain = nn.Conv2d(*shape, self.groups, self.bias is not None, device="meta", dtype=self.weight.dtype)  # ty: ignore[invalid-argument-type]
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)
