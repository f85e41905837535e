"""The form of a model that other runtimes take: folded, in plain operators, a tuple of maps out."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torchvision.ops
from torch import Tensor, fx, nn

from .._types import Model
from ..layers import DeformConv2d
from .fusion import folded
from .fusion.graphs import unique_outputs

__all__ = ["Plain", "plain_graph", "with_torchvision_layers"]


@dataclass(frozen=True)
class Plain:
    """A model in plain operators."""

    graph: fx.GraphModule
    """(N, C, H, W) -> tuple with each map once."""
    names: list[str]
    """Of the outputs, one per map."""
    outputs: dict[str, Any]
    """How the model packs them: "kind", "keys" and "order"."""
    limit: float
    """Relative error that is allowed against the model."""


def plain_graph(model: Model, dtype: str = "float32") -> Plain:
    """A model's folded graph, channels-last in memory.

    Raises:
        ValueError: The model is in training mode, its weights are not finite, or its forward cannot be followed.
    """
    made = folded(model)
    order = unique_outputs(made.graph)
    keys = None if made.keys is None else list(map(_plain_key, made.keys))
    kind = "dict" if keys is not None else "tensor" if issubclass(made.container, Tensor) else "list"
    graph = made.graph.to(getattr(torch, dtype)).to(memory_format=torch.channels_last).eval()
    return Plain(graph, _names(kind, keys, order), {"kind": kind, "keys": keys, "order": order}, made.limit)


def _plain_key(key: Any) -> Any:
    return key if isinstance(key, int) else str(key)


def _names(kind: str, keys: list[Any] | None, order: list[int]) -> list[str]:
    """Names of the maps in a file: "output", the keys of a dict, or "map_0" and so on."""
    if kind == "tensor":
        return ["output"]
    first = [order.index(index) for index in range(max(order) + 1)]
    return [f"map_{keys[index] if keys else index}" for index in first]


def with_torchvision_layers(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy whose deformable convs are torchvision's module, which pnnx knows by its class."""
    graph = copy.deepcopy(graph).eval()
    for name, module in list(graph.named_modules()):
        if isinstance(module, DeformConv2d):
            graph.set_submodule(name, _TorchvisionDeform(module))
    return graph


class _TorchvisionDeform(nn.Module):
    """A `DeformConv2d` without the treatment of NaN offsets."""

    def __init__(self, layer: DeformConv2d) -> None:
        super().__init__()
        shape: Any = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        rest: dict[str, Any] = {"dilation": layer.dilation, "groups": layer.groups, "bias": layer.bias is not None}
        self.deform: Any = torchvision.ops.DeformConv2d(*shape, **rest)
        self.deform.weight, self.deform.bias = layer.weight, layer.bias
        self.conv_offset, self.taps = layer.conv_offset, layer.kernel_size[0] * layer.kernel_size[1]

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.conv_offset(x).split([2 * self.taps, self.taps], dim=1)
        return self.deform(x, offset, 2.0 * mask.sigmoid())
