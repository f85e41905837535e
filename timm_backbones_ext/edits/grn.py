"""Global response normalisation in ConvNeXt blocks: ConvNeXt V2, https://arxiv.org/abs/2301.00808, section 4."""

from dataclasses import dataclass
from typing import Any

from timm.layers import GlobalResponseNormMlp, Mlp
from torch import nn

from .._timm import GlobalResponseNorm
from .._types import Model
from ..families import blocks
from ..layers import LowRankLinear
from .base import Edit, register_edit

__all__ = ["Grn"]


@register_edit(
    families=("convnext",),
    exact="eval+train",
    evidence="from scratch: ConvNeXt-B 83.8 -> 84.3 % top-1 on ImageNet (paper, Table 3, supervised)",
)
@dataclass(frozen=True)
class Grn(Edit):
    """GRN between the two layers of every block's MLP; its weight and bias start at zero.

    With `fold=True`, LayerScale is multiplied into the MLP's second layer. The result is a V2 block, and timm's
    `convnextv2_*` loads its checkpoint. This is exact up to the rounding of the product.
    """

    fold: bool = False

    def apply(self, model: Model) -> None:
        """Replace the MLP of every block."""
        for name, block in blocks(model):
            if type(block.mlp) is not Mlp or not isinstance(block.mlp.norm, nn.Identity):
                raise ValueError(f"grn: expected a plain MLP as {name}.mlp; got {type(block.mlp).__name__}")
            if self.fold and type(block.mlp.fc2) is LowRankLinear:
                raise ValueError(
                    f"grn: cannot fold LayerScale into {name}.mlp.fc2, which has a branch; merge lora first"
                )
            block.mlp = _with_grn(block.mlp, conv=block.use_conv_mlp)
            if self.fold and block.gamma is not None:
                _fold(block)

    def reset_identity(self, model: Model) -> None:
        """Zero weight and bias of every GRN."""
        for module in model.modules():
            if isinstance(module, GlobalResponseNorm):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)


def _with_grn(mlp: Any, *, conv: bool) -> GlobalResponseNormMlp:
    """timm's MLP with GRN around the layers of `mlp`."""
    weight = mlp.fc1.weight
    like: Any = {"device": weight.device, "dtype": weight.dtype}
    new = GlobalResponseNormMlp(1, 1, use_conv=conv, **like)
    new.grn = GlobalResponseNorm(weight.shape[0], channels_last=not conv, **like)
    new.fc1, new.act, new.drop1, new.fc2, new.drop2 = mlp.fc1, mlp.act, mlp.drop1, mlp.fc2, mlp.drop2
    return new.train(mlp.training)


def _fold(block: Any) -> None:
    """Multiply LayerScale into the second layer of the MLP, then remove it."""
    gamma = block.gamma.detach()
    weight, bias = block.mlp.fc2.weight, block.mlp.fc2.bias
    shape = (-1, *[1] * (weight.dim() - 1))
    block.mlp.fc2.weight = nn.Parameter(weight.detach() * gamma.view(shape), weight.requires_grad)
    block.mlp.fc2.bias = nn.Parameter(bias.detach() * gamma, bias.requires_grad)
    block.gamma = None
