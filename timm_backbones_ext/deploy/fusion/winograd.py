"""3x3 convs by Winograd's algorithm as batched matrix products: https://arxiv.org/abs/1509.09308.

F(m, 3) computes m x m outputs from (m + 2) x (m + 2) inputs with (m + 2)^2 products per pair of channels instead of
9 m^2. Its matrices come from interpolation points (Toom and Cook); rounding depends on the points, so they are small.
"""

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import onednn
from .fused_layers import FusedConv2d

__all__ = ["WinogradConv2d"]

CHUNK = 2**21
"""Bytes of transformed inputs that are computed at a time: about the size of the caches of a core."""
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 1.5, -1.5, 0.75, -0.75)}
"""Interpolation points by m, beside infinity. With 256 channels, these of F(4, 3) round by 1.4e-6; the usual 0, 1, -1,
2, -2 round by 6.3e-6."""
ROUNDS = 3


def matrices(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of inputs (m+2, m+2), weights (m+2, 3) and outputs (m, m+2), in float64."""
    points, n = POINTS[m], m + 2
    inputs, weights, outputs = (torch.zeros(n, side, dtype=torch.float64) for side in (n, 3, m))
    for row, point in enumerate(points):
        others = [p for p in points if p != point]
        inputs[row, : n - 1] = _product(others)
        weights[row] = torch.tensor([point**k / math.prod(point - p for p in others) for k in range(3)])
        outputs[row] = torch.tensor([point**k for k in range(m)])
    inputs[-1], weights[-1, -1], outputs[-1, -1] = _product(points), 1, 1
    return inputs, weights, outputs.t().contiguous()


def _product(roots: Any) -> Tensor:
    """Coefficients of the polynomial with these roots, the constant first."""
    found = torch.ones(1, dtype=torch.float64)
    for root in roots:
        found = F.pad(found, (1, 0)) - root * F.pad(found, (0, 1))
    return found


class WinogradConv2d(FusedConv2d):
    """A fused 3x3 conv of stride 1 that takes Winograd's way where a measurement says that it is the faster one.

    The first image of each order of size is measured, both ways; `always` skips that. Several images at a time go the
    other way.

    Args:
        conv: The fused conv.
        m: Side of the tiles of outputs.
    """

    def __init__(self, conv: FusedConv2d, m: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__getstate__())
        self.m, self.always = m, False
        self.faster: dict[int, bool] = {}

    @staticmethod
    def suits(conv: FusedConv2d) -> bool:
        """Whether a conv can go this way, and is wide enough for it to be worth a measurement."""
        plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1 and not conv.same
        wide = min(conv.weight.shape[:2]) >= 32 and conv.weight.shape[2:] == (3, 3)
        return plain and wide and conv.margin is None and conv.padding == (1, 1)

    def pack(self, x: Tensor) -> tuple[Tensor, ...]:
        """The weight, packed and transformed, and the transforms of inputs and outputs."""
        packings = list(self.packings.values())
        return super().pack(x), *(packings[0][1:] if packings else self.transforms())

    def transforms(self) -> list[Tensor]:
        """The weight, transformed, and the transforms of inputs and outputs; the same for all sizes."""
        by_input, by, by_output = matrices(self.m)
        weight = self.weight.detach().double()
        transformed = torch.einsum("ia,ocab,jb->jico", by, weight, by).flatten(0, 1)
        return [each.to(self.weight).contiguous() for each in (transformed, by_input, by_output)]

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Maps."""
        if not self.ready(x) or len(x) != 1 or not x.is_contiguous(memory_format=torch.channels_last):
            return self.direct(x, other)
        order = self.order(x)
        if not self.always and order not in self.faster:
            self.faster[order] = self.measure(x, other)
        return self.tiled(x, other) if self.always or self.faster[order] else self.direct(x, other)

    def direct(self, x: Tensor, other: Tensor | None) -> Tensor:
        """The conv by oneDNN."""
        if not self.ready(x):
            return self.unfused(x, other)
        if other is None:
            return onednn.conv(x, self.packed[0], self.bias, self.shape(), self.activation)
        relu = "relu" if self.activation[0] == "relu" else None
        return onednn.conv_sum(x, other, self.packed[0], self.bias, self.shape(), relu)

    def measure(self, x: Tensor, other: Tensor | None) -> bool:
        """Whether tiles are faster than oneDNN on this map."""
        best = {}
        for way in (self.direct, self.tiled) * (ROUNDS + 1):
            start = time.perf_counter()
            way(x, other)
            best.setdefault(way.__name__, []).append(time.perf_counter() - start)
        return min(best["tiled"][1:]) < min(best["direct"][1:])

    def tiled(self, x: Tensor, other: Tensor | None) -> Tensor:
        """The conv by Winograd's algorithm, some rows of tiles at a time."""
        m, (height, width) = self.m, x.shape[2:]
        down, across = -(-height // m), -(-width // m)
        padding = (0, 0, 1, m * across + 1 - width, 1, m * down + 1 - height)
        padded = F.pad(x.permute(0, 2, 3, 1), padding)[0]
        whole = x.new_empty(1, m * down, m * across, self.weight.shape[0])
        out = whole[0]
        step = max(1, CHUNK // (4 * (m + 2) ** 2 * across * x.shape[1]))
        for row in range(0, down, step):
            first, last = m * row, m * min(row + step, down)
            self.tiles(padded[first : last + 2], out[first:last])
            self.finish(out[first : min(last, height), :width], other, slice(first, last))
        return whole[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def finish(self, out: Tensor, other: Tensor | None, rows: slice) -> None:
        """Add the bias and the other map, and apply the activation, while (rows, W, C') is in the cache."""
        if self.bias is not None:
            out.add_(self.bias)
        if other is not None:
            out.add_(other[0, :, rows].permute(1, 2, 0))
        if self.activation[0] == "relu":
            out.relu_()
        elif self.act is not None:
            out.copy_(self.act(out))

    def tiles(self, rows: Tensor, out: Tensor) -> None:
        """(m r + 2, m t + 2, C) -> (m r, m t, C'), written to `out`."""
        m, n = self.m, self.m + 2
        _, weight, by_input, by_output = self.packed
        _, width, channels = rows.shape
        down, across = out.shape[0] // m, out.shape[1] // m
        line = width * channels
        windows = rows.as_strided((n, down, line), (line, m * line, 1), rows.storage_offset())
        turned = by_input.mm(windows.reshape(n, -1))
        windows = turned.as_strided((n, n * down, across, channels), (channels, line, m * channels, 1))
        turned = by_input.mm(windows.reshape(n, -1)).view(n * n, down * across, channels)
        products = turned.bmm(weight)
        back = by_output.mm(products.view(n, -1)).view(m, n, -1)
        back = by_output.matmul(back).view(m, m, down, across, -1)
        out.view(down, m, across, m, -1).copy_(back.permute(2, 1, 3, 0, 4))
