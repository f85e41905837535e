"""A conv that edits extend: more input channels, a larger kernel, parallel branches, a gate. The base's keys stay."""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, get_same_padding, pad_same
from timm.models import register_notrace_module
from torch import Tensor, nn

__all__ = ["Added", "Branch", "ExtendedConv2d", "Kept", "Pads", "check_zero_padding"]


class Kept(NamedTuple):
    """The part of a larger weight that holds the base's weights: the first `channels`, and a window of the kernel."""

    channels: int
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def all_of(cls, weight: Tensor) -> "Kept":
        """The part that covers a whole weight."""
        return cls(weight.shape[1], 0, weight.shape[2], 0, weight.shape[3])


class Pads(NamedTuple):
    """Pixels of padding on each side, in the order of `torch.nn.functional.pad`."""

    left: int
    right: int
    above: int
    below: int


def check_zero_padding(conv: nn.Conv2d) -> None:
    """Raise ValueError for a conv whose padding is not a fixed number of zeros, since the convs here pad so."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError(f"expected a conv with zero padding, given in pixels; got {conv}")


class Added(nn.Module):
    """Base class of modules that an edit adds; none of their tensors belongs to the base."""

    def reset_identity(self) -> None:
        """Set the tensors so that the model computes the same as without this module."""
        raise NotImplementedError


class Branch(Added):
    """A conv and a batch norm, parallel to a conv; the branch adds zero while the norm's weight is zero."""

    first: ClassVar[str] = "conv"
    """Name of the conv that takes the input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, device=conv.weight.device, dtype=conv.weight.dtype)
        self.reset_identity()

    def reset_identity(self) -> None:
        """Set the norm's weight and bias to zero; the conv keeps its weights, so that the norm gets a gradient."""
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        return self.norm(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, in float64, of one conv that computes the same in eval mode."""
        norm, double = self.norm, torch.float64
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("cannot merge a branch whose norm keeps no running statistics")
        scale = norm.weight.to(double) / (norm.running_var.to(double) + norm.eps).sqrt()
        weight = self.conv.weight.to(double) * scale[:, None, None, None]
        return weight, norm.bias.to(double) - norm.running_mean.to(double) * scale


@register_notrace_module
class ExtendedConv2d(nn.Conv2d):
    """(N, C_in, H, W) -> (N, C_out, H', W'): gate(conv(x) + sum of branches(x)).

    It starts with the parameters of the conv that it replaces, under the same names. It can be extended several times,
    in any order: `grow` puts zeros around the weights, `branches` and `gate` hold modules that start as the identity.
    """

    kept: Kept
    margin: Pads
    """Pixels of zero padding in addition to the conv's own symmetric padding."""
    same: bool
    """Use TensorFlow's 'same' padding, which depends on the image size, as timm's Conv2dSame."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept, self.margin = Kept.all_of(self.weight), Pads(0, 0, 0, 0)
        self.uneven, self.same = False, False
        self.branches = nn.ModuleDict()
        self.gate: nn.Module = nn.Identity()

    @classmethod
    def replacing(cls, conv: Any) -> "ExtendedConv2d":
        """An extended conv with the parameters of `conv`; `conv` itself if it is an extended conv.

        Raises:
            ValueError: `conv` is not a plain conv that pads with a fixed number of zeros.
        """
        if isinstance(conv, cls):
            return conv
        if type(conv) not in (nn.Conv2d, Conv2dSame):
            raise ValueError(f"expected a plain conv; got {conv}")
        check_zero_padding(conv)
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        extended = cls(*shape, conv.groups, conv.bias is not None, device="meta", dtype=conv.weight.dtype)
        extended.weight, extended.bias = conv.weight, conv.bias
        extended.same = type(conv) is Conv2dSame
        return extended.train(conv.training)

    @classmethod
    def dense(cls, conv: Any, dilation: int) -> "ExtendedConv2d":
        """The stride-1 form of a downsampling conv. Windows keep their first pixel, so padding goes right and below."""
        dense = cls.replacing(conv)
        if dense.branches:
            raise ValueError(f"expected a conv without branches; got one with {', '.join(dense.branches)}")
        dense.stride, dense.dilation = (1, 1), (dilation, dilation)
        dense.pad_by(0, dilation * (conv.kernel_size[1] - 1), 0, dilation * (conv.kernel_size[0] - 1))
        return dense

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter] x as everywhere here
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        padded = x
        if self.same:
            padded = pad_same(x, self.weight.shape[-2:], self.stride, self.dilation)  # ty: ignore[invalid-argument-type]
        elif self.uneven:
            margin = self.margin
            padded = F.pad(x, [margin.left, margin.right, margin.above, margin.below])  # TorchScript takes a list
        y = F.conv2d(padded, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        for branch in self.branches.values():
            y = y + branch(x)
        return self.gate(y)

    def grow(self, in_channels: int = 0, above: int = 0, below: int = 0, left: int = 0, right: int = 0) -> None:
        """Put zero weights after the input channels and around the kernel; outputs keep their size."""
        grown = F.pad(self.weight.detach(), (left, right, above, below, 0, in_channels))
        self.weight = nn.Parameter(grown, requires_grad=self.weight.requires_grad)
        self.in_channels += in_channels
        self.kernel_size = tuple(self.weight.shape[2:])
        kept = self.kept
        self.kept = Kept(kept.channels, kept.top + above, kept.bottom + above, kept.left + left, kept.right + left)
        if not self.same:
            pads, (rows, columns) = self._pads(), self.dilation
            self.pad_by(
                left=pads.left + columns * left,
                right=pads.right + columns * right,
                above=pads.above + rows * above,
                below=pads.below + rows * below,
            )
        if in_channels:
            for _, conv in self._branches():
                conv.grow(in_channels)

    def sum_inputs(self) -> None:
        """Reduce to one input channel with the sum of all weights; exact where all channels are equal.

        Raises:
            ValueError: The conv is grouped, so that output channels see different input channels.
        """
        if self.groups != 1:
            raise ValueError(f"expected a conv with one group; got {self}")
        total = self.weight.detach().sum(1, keepdim=True)
        self.weight = nn.Parameter(total, requires_grad=self.weight.requires_grad)
        self.in_channels, self.kept = 1, self.kept._replace(channels=1)
        for _, conv in self._branches():
            conv.sum_inputs()

    def _branches(self) -> Iterator[tuple[Any, "ExtendedConv2d"]]:
        """Each branch with the conv that takes its input, as an extended conv."""
        branches: Any = self.branches
        for branch in branches.values():
            conv = ExtendedConv2d.replacing(getattr(branch, branch.first))
            setattr(branch, branch.first, conv)
            yield branch, conv

    def _pads(self) -> Pads:
        """Total padding: the conv's own and the margin."""
        rows, columns = self.padding
        left, right, above, below = self.margin
        return Pads(left + columns, right + columns, above + rows, below + rows)  # ty: ignore[unsupported-operator]

    def pad_by(self, left: int, right: int, above: int, below: int) -> None:
        """Pad by fixed amounts in pixels; negative amounts crop."""
        self.padding = rows, columns = max(0, min(above, below)), max(0, min(left, right))
        self.margin = Pads(left - columns, right - columns, above - rows, below - rows)
        self.uneven, self.same = any(self.margin), False

    def dilate(self, factor: int) -> None:
        """Multiply the dilation by a factor, of the branches too; outputs keep their size."""
        self.dilation = (factor * self.dilation[0], factor * self.dilation[1])
        self.pad_by(*(factor * n for n in self._pads()))
        for _, conv in self._branches():
            conv.dilate(factor)

    def pad_statically(self) -> None:
        """Replace 'same' padding by the fixed padding that is equal if each side is a multiple of the stride."""
        size = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (get_same_padding(stride, kernel, stride, dilation) for kernel, stride, dilation in size)
        self.pad_by(columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        for _, conv in self._branches():
            conv.pad_statically()

    def add_branch(self, name: str, kernel_size: tuple[int, int], dilation: int = 1) -> None:
        """Add a branch whose dilated kernel is centred in this conv's kernel.

        Raises:
            ValueError: The dilated kernel does not fit, or this conv's padding depends on the image size.
        """
        spans = [dilation * (side - 1) + 1 for side in kernel_size]
        if any((side - span) % 2 or span > side for side, span in zip(self.kernel_size, spans, strict=True)):
            raise ValueError(f"a branch of {kernel_size} with dilation {dilation} does not fit in {self.kernel_size}")
        if self.same:
            raise ValueError("its padding depends on the size of images; apply the edit static_pad first")
        steps = tuple(dilation * step for step in self.dilation)
        conv = nn.Conv2d(
            *(self.in_channels, self.out_channels, kernel_size, self.stride, 0, steps, self.groups),  # ty: ignore[invalid-argument-type]
            bias=False,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        rows, columns = (
            step * (side - span) // 2 for step, side, span in zip(self.dilation, self.kernel_size, spans, strict=True)
        )
        left, right, above, below = self._pads()
        extended = ExtendedConv2d.replacing(conv)
        extended.pad_by(left - columns, right - columns, above - rows, below - rows)
        self.branches[name] = Branch(extended.simplest()).train(self.training)

    def merge_branches(self) -> Tensor:
        """Fold the branches into the weight; exact in eval mode.

        Returns:
            (C_out,) in float64: the constant that the branches add to the output. The caller adds it to the bias or, if
            the conv has no bias, to the norm after it.
        """
        weight = self.weight.detach().to(torch.float64, copy=True)
        shift = weight.new_zeros(self.out_channels)
        for branch, conv in self._branches():
            part, bias = branch.folded()
            window = [slice(None), slice(None)]
            middles = (self.kept.top + self.kept.bottom, self.kept.left + self.kept.right)  # twice the base's centre
            for axis, (side, middle) in enumerate(zip(part.shape[2:], middles)):
                step = conv.dilation[axis] // self.dilation[axis]
                span = step * (side - 1) + 1
                start = (middle - span) // 2
                window.append(slice(start, start + span, step))
            weight[tuple(window)] += part.detach()
            shift += bias.detach()
        self.weight = nn.Parameter(weight.to(self.weight), requires_grad=self.weight.requires_grad)
        self.branches = nn.ModuleDict()
        return shift

    def fuse(self) -> nn.Conv2d:
        """Fold the branches into weight and bias; a plain conv if nothing else is extended. Exact in eval mode.

        `timm.utils.reparameterize_model` and the `--reparam` option of timm's scripts call it.
        """
        if self.branches:
            shift = self.merge_branches()
            bias = shift if self.bias is None else shift + self.bias.detach()
            self.bias = nn.Parameter(bias.to(self.weight), requires_grad=self.weight.requires_grad)
        return self.simplest()

    def reset_identity(self) -> None:
        """Set all weights outside the base's weights to zero."""
        kept = self.kept
        new = torch.ones_like(self.weight, dtype=torch.bool)
        new[:, : kept.channels, kept.top : kept.bottom, kept.left : kept.right] = False
        with torch.no_grad():
            self.weight.masked_fill_(new, 0)

    def simplest(self) -> nn.Conv2d:
        """A plain conv with the same parameters if nothing is extended; otherwise this one."""
        extended = self.same or self.uneven or len(self.branches) or not isinstance(self.gate, nn.Identity)
        if extended or self.kept != Kept.all_of(self.weight):
            return self
        shape = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation)
        plain = nn.Conv2d(*shape, self.groups, self.bias is not None, device="meta", dtype=self.weight.dtype)  # ty: ignore[invalid-argument-type]
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)
