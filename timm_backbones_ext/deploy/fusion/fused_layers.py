"""Layers that replace several of a model's: float32 on the CPU by oneDNN's fused operators, all else by torch's own."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, Mlp, pad_same
from torch import Tensor, nn

from ...layers import ExtendedConv2d
from . import onednn
from .folding import is_plain_conv
from .onednn import NONE, Activation

__all__ = ["FusedConv2d", "FusedConvNeXtBlock", "GatedConv2d", "Packed"]

CHUNK = 2**20
"""Bytes of the hidden layer of an MLP that are computed at a time: about the size of a core's second cache."""

KEPT = 3
"""Orders of size that a layer keeps packed weights for; oneDNN's layout for one size is slow for others."""


class Packed(nn.Module):
    """A layer whose weights are packed for the maps that come; copies, moves and loads pack them anew."""

    packed: Any = None
    """For the map that came last."""
    packings: Any = None
    """By order of size."""

    def pack(self, x: Tensor) -> Any:
        """The packed weights, best for maps like `x`, right for all."""
        raise NotImplementedError

    def order(self, x: Tensor) -> int:
        """The order of a map's size; maps of one order share packed weights."""
        return 0

    def ready(self, x: Tensor) -> bool:
        """Whether the fused operators take `x`; `packed` is for it then."""
        if x.dtype is not torch.float32 or x.device.type != "cpu" or x.requires_grad:
            return False
        order, self.packings = self.order(x), self.packings or {}
        if order not in self.packings:
            self.packings = dict(list(self.packings.items())[1 - KEPT :])
            self.packings[order] = self.pack(x)
        self.packed = self.packings[order]
        return True

    def unpack(self) -> None:
        """Forget the packed weights."""
        self.packed = self.packings = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": None, "packings": None}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Packed":
        self.unpack()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:  # ty: ignore[incompatible-method-override]
        self.unpack()
        super()._load_from_state_dict(*args)


class FusedConv2d(Packed):
    """(N, C, H, W) -> act(conv(x) + other), channels-last.

    Args:
        conv: The conv, with whatever padding.
        activation: What comes after it, as a module; with a sum, after the sum.
    """

    def __init__(self, conv: Any, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.same = isinstance(conv, Conv2dSame) or getattr(conv, "same", False)
        self.margin = conv.margin if isinstance(conv, ExtendedConv2d) and not self.same and conv.uneven else None
        self.padding = _padding(conv) if not self.same else (0, 0)
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.after(activation)

    def after(self, activation: nn.Module | None) -> None:
        """Set the activation."""
        found = NONE if activation is None else onednn.activation_of(activation)
        if found is None:
            raise ValueError(f"oneDNN has no {type(activation).__name__}")
        self.activation: Activation = found
        self.act = activation

    def order(self, x: Tensor) -> int:
        """The power of two above the number of pixels."""
        return (x.shape[2] * x.shape[3]).bit_length()

    def pack(self, x: Tensor) -> Any:
        """The weight, packed."""
        return onednn.pack(self.weight.detach(), *self.shape(), list(x.shape))

    def shape(self) -> tuple[Any, ...]:
        """Padding, stride, dilation and groups."""
        return (self.padding, self.stride, self.dilation, self.groups)

    def padded(self, x: Tensor) -> Tensor:
        """The input with the padding that is not the same on all sides."""
        if self.same:
            return pad_same(x, self.weight.shape[-2:], self.stride, self.dilation)
        return x if self.margin is None else F.pad(x, self.margin)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Maps."""
        x = self.padded(x)
        if not self.ready(x):
            return self.unfused(x, other)
        if other is None:
            return onednn.conv(x, self.packed, self.bias, self.shape(), self.activation)
        relu = "relu" if self.activation[0] == "relu" else None
        return onednn.conv_sum(x, other, self.packed, self.bias, self.shape(), relu)

    def unfused(self, x: Tensor, other: Tensor | None) -> Tensor:
        """The same by torch's own operators."""
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        y = y if other is None else y + other
        return y if self.act is None else self.act(y)

    def extra_repr(self) -> str:
        """Shape of the weight, and the activation."""
        return f"{tuple(self.weight.shape)}, stride={self.stride}, groups={self.groups}, {self.activation[0]}"


def _padding(conv: Any) -> tuple[int, int]:
    if isinstance(conv.padding, str):
        raise ValueError(f"padding {conv.padding!r}")
    return conv.padding


class GatedConv2d(nn.Module):
    """(N, C, H, W) -> conv(gate(x) * x) + other of a squeeze-and-excitation before a 1x1 conv.

    With one image, the gate multiplies the smaller of weight and map.
    """

    def __init__(self, gate: Any, conv: FusedConv2d) -> None:
        super().__init__()
        self.gate, self.conv = gate, conv

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Maps."""
        if len(x) > 1 or not self.conv.ready(x):
            return self.conv(self.gate(x), other)
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        gate = self.gated(rows)
        if len(rows) < len(self.conv.weight):
            return self.conv(x * gate[:, :, None, None], other)
        weight = (self.conv.weight.flatten(1) * gate).t()
        y = torch.mm(rows, weight) if self.conv.bias is None else torch.addmm(self.conv.bias, rows, weight)
        y = y.reshape(1, *x.shape[2:], -1).permute(0, 3, 1, 2)
        return y if other is None else y.add_(other)

    def gated(self, rows: Tensor) -> Tensor:
        """(H * W, C) -> (1, C): the gate of one image."""
        mean, gate = rows.mean(0, keepdim=True), self.gate
        if hasattr(gate, "conv_reduce"):
            first, act, last = gate.conv_reduce, gate.act1, gate.conv_expand
        else:
            first, act, last = gate.fc1, gate.act, gate.fc2
        hidden = act(F.linear(mean, first.weight.flatten(1), first.bias))
        return gate.gate(F.linear(hidden, last.weight.flatten(1), last.bias))


class FusedConvNeXtBlock(Packed):
    """(N, C, H, W) -> (N, C', H', W'): timm's block, channels-last, its MLP in chunks that stay in the cache.

    The affine part of the norm is folded into the first linear layer and LayerScale into the second.

    Raises:
        ValueError: The block has a GRN, a conv MLP or an activation that oneDNN lacks; the message names it.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        if why := _not_fusable(block):
            raise ValueError(why)
        self.conv_dw = _fused(block.conv_dw)
        self.shortcut, self.act = block.shortcut, block.mlp.act
        self.activation = onednn.activation_of(block.mlp.act)
        self.channels, self.eps = block.norm.normalized_shape, block.norm.eps
        self.fc1, self.fc2 = _folded_mlp(block)

    def pack(self, x: Tensor) -> Any:
        """Both weights, packed."""
        return onednn.pack_linear(self.fc1.weight.detach()), onednn.pack_linear(self.fc2.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Maps."""
        shortcut = self.shortcut(x).permute(0, 2, 3, 1)
        x = self.conv_dw(x).permute(0, 2, 3, 1)
        if not self.ready(x):
            y = self.fc2(self.act(self.fc1(F.layer_norm(x, self.channels, None, None, self.eps))))
            return (y + shortcut).permute(0, 3, 1, 2)
        rows, added = x.flatten(0, 2), shortcut.flatten(0, 2)
        step = max(64, CHUNK // (4 * self.fc1.out_features))
        parts = [self.mlp(r, a) for r, a in zip(rows.split(step), added.split(step))]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.view(shortcut.shape).permute(0, 3, 1, 2)

    def mlp(self, rows: Tensor, added: Tensor) -> Tensor:
        """(positions, C) -> (positions, C'): norm, MLP and sum."""
        rows = F.layer_norm(rows, self.channels, None, None, self.eps)
        hidden = onednn.linear(rows, self.packed[0], self.fc1.bias, self.activation)  # ty: ignore[invalid-argument-type]
        return onednn.linear_sum(hidden, added, self.packed[1], self.fc2.bias)


def _not_fusable(block: Any) -> str:
    """Why a ConvNeXt block stays as it is."""
    if block.use_conv_mlp:
        return "its MLP is made of convs"
    if type(block.mlp) is not Mlp or not isinstance(block.mlp.norm, nn.Identity):
        return f"its MLP is a {type(block.mlp).__name__}"
    if not isinstance(block.norm, nn.LayerNorm) or getattr(block.norm, "_fast_norm", False):
        return f"its norm is a {type(block.norm).__name__}"
    if onednn.activation_of(block.mlp.act) is None:
        return f"oneDNN has no {type(block.mlp.act).__name__}"
    return ""


def _fused(conv: Any) -> Any:
    """The depthwise conv in fused form; one that is extended stays."""
    return FusedConv2d(conv) if is_plain_conv(conv) else conv


def _folded_mlp(block: Any) -> tuple[nn.Linear, nn.Linear]:
    """Both linear layers with the norm's affine part and LayerScale in them, computed in float64."""
    first, last = copy.deepcopy(block.mlp.fc1), copy.deepcopy(block.mlp.fc2)
    like, double = first.weight, torch.float64
    w1, w2 = (layer.weight.detach().to(double) for layer in (first, last))
    b1, b2 = (
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
        for layer in (first, last)
    )
    b1, b2 = b1.to(double), b2.to(double)
    if block.norm.weight is not None:
        b1 = b1 + w1 @ block.norm.bias.detach().to(double)
        w1 = w1 * block.norm.weight.detach().to(double)
    if block.gamma is not None:
        gamma = block.gamma.detach().to(double)
        w2, b2 = w2 * gamma[:, None], b2 * gamma
    for layer, weight, bias in ((first, w1, b1), (last, w2, b2)):
        layer.weight = nn.Parameter(weight.to(like), requires_grad=False)
        layer.bias = nn.Parameter(bias.to(like), requires_grad=False)
    return first, last
