"""Low-rank branches parallel to convs and linear layers: LoRA, https://arxiv.org/abs/2106.09685, section 4.1.

For a conv, A is a conv with the kernel, stride and padding of the layer, and B is 1x1, as in LoCon
(https://arxiv.org/abs/2309.14859) and in PEFT.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .conv import Added, ExtendedConv2d

__all__ = ["BRANCH", "LowRank", "LowRankLinear", "fold_low_rank", "low_rank_of", "with_low_rank"]

BRANCH = "lora"
"""Name of the branch: keys end in `lora.down.weight` and `lora.up.weight`, the A and B of the paper."""


class LowRank(Added):
    """B A x, which is zero while B is zero; A and B have no bias."""

    first: ClassVar[str] = "down"

    def __init__(self, down: Any, up: Any) -> None:
        super().__init__()
        self.down: Any = down
        self.up: Any = up
        self.reset_identity()

    def reset_identity(self) -> None:
        """Set B to zero; A keeps its weights, so that B gets a gradient."""
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W'), or (..., C_in) -> (..., C_out)."""
        return self.up(self.down(x))

    def product(self) -> Tensor:
        """B A in float64, in the shape of the layer's weight."""
        groups = getattr(self.up, "groups", 1)
        up, down = (weight.detach().to(torch.float64) for weight in (self.up.weight, self.down.weight))
        product = torch.bmm(*(weight.reshape(groups, len(weight) // groups, -1) for weight in (up, down)))
        return product.reshape(len(up), *down.shape[1:])

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, in float64, of one conv that computes the same."""
        weight = self.product()
        return weight, weight.new_zeros(len(weight))


class LowRankLinear(nn.Linear):
    """(..., C_in) -> (..., C_out): W x + B A x, with the parameters of the layer that it replaces."""

    lora: LowRank

    @classmethod
    def replacing(cls, linear: nn.Linear, rank: int) -> "LowRankLinear":
        """A layer with the parameters of `linear`, and a branch."""
        like: Any = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        down = nn.Linear(linear.in_features, rank, bias=False, **like)
        layer.lora = LowRank(down, nn.Linear(rank, linear.out_features, bias=False, **like))
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return super().forward(input) + self.lora(input)

    def fuse(self) -> nn.Linear:
        """A plain layer that computes the same; B A is added in float64, with one rounding."""
        total = self.weight.detach().to(torch.float64) + self.lora.product()
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(total.to(self.weight), requires_grad=self.weight.requires_grad)
        plain.bias = self.bias
        return plain.train(self.training)


def with_low_rank(layer: nn.Module, rank: int) -> nn.Module:
    """A layer with the parameters of a conv or a linear layer, and a branch of the given rank.

    A has the groups of the layer, so that B A has the shape of the layer's weight.

    Raises:
        ValueError: The layer is of another kind, it has branches already, or the rank is not a multiple of its groups.
    """
    if type(layer) is nn.Linear:
        return LowRankLinear.replacing(layer, rank)
    conv = ExtendedConv2d.replacing(layer)
    if conv.branches:
        raise ValueError("it has branches already")
    if rank % conv.groups:
        raise ValueError(f"its {conv.groups} groups need a rank that is a multiple of them; got {rank}")
    conv.branches[BRANCH] = _beside(conv, rank).train(conv.training)
    return conv


def _beside(conv: ExtendedConv2d, rank: int) -> LowRank:
    like: Any = {"bias": False, "device": conv.weight.device, "dtype": conv.weight.dtype}
    shape: Any = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    down = nn.Conv2d(conv.in_channels, rank, *shape, **like)
    if conv.same or conv.uneven:
        down = ExtendedConv2d.replacing(down)
        down.same, down.uneven, down.margin = conv.same, conv.uneven, conv.margin
    return LowRank(down, nn.Conv2d(rank, conv.out_channels, 1, groups=conv.groups, **like))


def low_rank_of(layer: nn.Module) -> LowRank | None:
    """The branch of a layer; None if it has none."""
    if isinstance(layer, LowRankLinear):
        return layer.lora
    if isinstance(layer, ExtendedConv2d) and BRANCH in layer.branches:
        return layer.branches[BRANCH]  # ty: ignore[invalid-explicit-return]
    return None


def fold_low_rank(layer: Any) -> nn.Module:
    """The layer without its branch: B A is added to its weight, in float64 with one rounding."""
    if isinstance(layer, LowRankLinear):
        return layer.fuse()
    layer.merge_branches()  # the branch has no bias, so its constant is zero
    return layer.simplest()
