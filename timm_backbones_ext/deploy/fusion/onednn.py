"""torch's fused oneDNN operators, which have private names: what of them this package uses, in one place.

They are what `torch.compile` puts into its graphs (`torch/_inductor/fx_passes/mkldnn_fusion.py`); the same from
torch 2.6 to 2.15. Weights are packed once; the operators have no gradient and take float32 on the CPU here.
"""

from typing import Any

import torch
from timm.layers import activations
from torch import Tensor, nn

__all__ = [
    "Activation",
    "activation_of",
    "available",
    "conv",
    "conv_sum",
    "linear",
    "linear_sum",
    "pack",
    "pack_linear",
]

Activation = tuple[str, list[float], str]
"""Name, parameters and algorithm of an activation, in the operators' words."""
NONE: Activation = ("none", [], "")
_SIMPLE: dict[type[nn.Module], Activation] = {
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.SiLU: ("swish", [], ""),
    activations.Swish: ("swish", [], ""),
    activations.GELU: ("gelu", [], "none"),
    activations.GELUTanh: ("gelu", [], "tanh"),
    nn.Hardswish: ("hardswish", [], ""),
    nn.Sigmoid: ("sigmoid", [], ""),
    nn.Tanh: ("tanh", [], ""),
}


def available() -> bool:
    """Whether this torch has the operators on this machine."""
    names = ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def activation_of(module: Any) -> Activation | None:
    """An activation in the operators' words; None if they do not have it."""
    if type(module) is nn.GELU:
        return ("gelu", [], module.approximate)
    return _SIMPLE.get(type(module))


def pack(weight: Tensor, padding: Any, stride: Any, dilation: Any, groups: int, size: list[int]) -> Tensor:
    """The weight of a conv in the layout that the operators want for maps of a size."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, size)


def pack_linear(weight: Tensor) -> Tensor:
    """The weight of a linear layer in the layout that the operators want."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[Any, ...], activation: Activation) -> Tensor:
    """act(conv(x)); shape is padding, stride, dilation and groups."""
    return torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *shape, *activation)


def conv_sum(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, shape: tuple[Any, ...], relu: str | None
) -> Tensor:
    """conv(x) + other, with "relu" after it if wanted."""
    operator = torch.ops.mkldnn._convolution_pointwise.binary
    return operator(x, other, weight, bias, *shape, "add", 1.0, relu, [], None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """act(linear(x))."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, *activation)


def linear_sum(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """linear(x) + other."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, "add")
