"""Dilated branches inside large depthwise kernels: UniRepLKNet, https://arxiv.org/abs/2311.15599, section 3.1."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from .._types import Model
from ..families import depthwise_convs
from .base import register_edit
from .rep import BranchEdit

__all__ = ["DilatedReparam"]

BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""Size of the large kernel -> (kernel size, dilation) of its branches, as in the paper's `DilatedReparamBlock`."""


@register_edit(
    families=("convnext", "efficientnet"),
    exact="eval+train",
    evidence="from scratch: a part of UniRepLKNet, without a figure of its own",
)
@dataclass(frozen=True)
class DilatedReparam(BranchEdit):
    """Dilated branches with batch norm, parallel to depthwise convs of 5x5 and larger; `merge` folds them in."""

    stages: tuple[int, ...] | None = None
    tried_on: ClassVar = {"efficientnet": "efficientnet_b0"}

    def convs(self, model: Model) -> Iterator[tuple[str, Any]]:
        """The depthwise convs of the stages without those of 3x3, into which no dilated kernel fits."""
        for name, conv in depthwise_convs(model, self.stages):
            if max(conv.kernel_size) > 3:
                yield name, conv

    def branches(self, conv: nn.Conv2d) -> dict[str, tuple[tuple[int, int], int]]:
        """The branches of the paper's code for the size of the kernel."""
        size = conv.kernel_size[0]
        if size not in BRANCHES or conv.kernel_size[1] != size:
            raise ValueError(f"expected a square kernel of {', '.join(map(str, BRANCHES))}; got {conv.kernel_size}")
        return {f"k{side}d{dilation}": ((side, side), dilation) for side, dilation in BRANCHES[size]}
