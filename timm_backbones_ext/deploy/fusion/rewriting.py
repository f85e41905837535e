"""A folded graph rewritten for float32 on the CPU: fused operators, channels-last, gates in the next weight."""

import operator
from typing import Any

import torch
from timm.layers import SEModule
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ..._timm import ConvNeXtBlock, SqueezeExcite
from . import onednn
from .folding import called, is_plain_conv, replace, sole_user
from .fused_layers import FusedConv2d, FusedConvNeXtBlock, GatedConv2d
from .winograd import WinogradConv2d

__all__ = ["rewrite"]

SUMS = (operator.add, operator.iadd, torch.add)


def rewrite(graph: fx.GraphModule, x: Tensor, tile: int = 0) -> tuple[list[str], dict[str, str]]:
    """Replace convs, with what follows them, gates and ConvNeXt blocks, in place.

    Args:
        graph: A folded model in float32 on the CPU.
        x: An image to learn the shapes of maps from.
        tile: Side of the tiles of Winograd's algorithm for 3x3 convs, which are then to be measured; 0 for none.

    Returns:
        Names of the modules that were replaced; names of those that stay, and why.
    """
    ShapeProp(graph).propagate(x)
    done, left = [], {}
    for node in list(graph.graph.nodes):
        module = called(graph, node)
        try:
            if isinstance(module, ConvNeXtBlock):
                graph.set_submodule(str(node.target), FusedConvNeXtBlock(module))
            elif is_plain_conv(module):
                _fuse_conv(graph, node, module)
            else:
                continue
            done.append(str(node.target))
        except ValueError as error:
            left[str(node.target)] = str(error)
    for name, module in list(graph.named_modules()):
        if tile and type(module) is FusedConv2d and WinogradConv2d.suits(module):
            graph.set_submodule(name, WinogradConv2d(module, tile))
    _channels_last(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return done, left


def _fuse_conv(graph: fx.GraphModule, node: fx.Node, conv: nn.Module) -> None:
    """Replace a conv, the activation after it, the sum after it and the gate before it."""
    fused = FusedConv2d(conv)
    layer: nn.Module = fused
    before: Any = node.args[0]
    gate = called(graph, before) if sole_user(before) is node else None
    if isinstance(gate, SEModule | SqueezeExcite) and _is_pointwise(fused) and _is_simple(gate):
        layer = GatedConv2d(gate, fused)
        replace_input(node, before)
    elif (user := _activation_after(graph, node)) is not None:
        fused.after(called(graph, user))
        replace(user, node)
    graph.set_submodule(str(node.target), layer)
    if fused.act is None:
        _fuse_sum(graph, node, fused, gated=layer is not fused)


def replace_input(node: fx.Node, gate: Any) -> None:
    """Let a node take what its gate takes, without the gate."""
    node.args = (gate.args[0], *node.args[1:])
    gate.graph.erase_node(gate)


def _is_pointwise(fused: FusedConv2d) -> bool:
    """Whether a conv is a matrix product of positions and channels."""
    plain = fused.stride == (1, 1) and fused.groups == 1 and fused.padding == (0, 0)
    return plain and fused.weight.shape[2:] == (1, 1) and fused.margin is None


def _is_simple(gate: Any) -> bool:
    """Whether a gate is made of two linear layers on the mean."""
    return not getattr(gate, "add_maxpool", False) and isinstance(getattr(gate, "bn", nn.Identity()), nn.Identity)


def _activation_after(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The node after a node, if nothing else comes after it and it is an activation that oneDNN has."""
    user = sole_user(node)
    return user if user is not None and onednn.activation_of(called(graph, user)) is not None else None


def _fuse_sum(graph: fx.GraphModule, node: fx.Node, fused: FusedConv2d, *, gated: bool) -> None:
    """Let a conv add what is added to its output; with the ReLU after that."""
    total = sole_user(node)
    if total is None or total.target not in SUMS or len(total.args) != 2 or total.kwargs:
        return
    other = total.args[1] if total.args[0] is node else total.args[0]
    if not isinstance(other, fx.Node) or other is node or not _same_shape(node, other):
        return
    if total.target is operator.iadd and total.args[0] is not node and len(other.users) > 1:
        return  # the other map is changed in place and used again
    with graph.graph.inserting_before(total):
        summed = graph.graph.call_module(str(node.target), (node.args[0], other))
    summed.meta = dict(total.meta)
    replace(total, summed)
    node.graph.erase_node(node)
    after = _activation_after(graph, summed)
    if after is not None and not gated and isinstance(called(graph, after), nn.ReLU):
        fused.after(called(graph, after))
        replace(after, summed)


def _same_shape(one: fx.Node, other: fx.Node) -> bool:
    shapes = [getattr(node.meta.get("tensor_meta"), "shape", None) for node in (one, other)]
    return shapes[0] is not None and shapes[0] == shapes[1]


def _channels_last(graph: fx.GraphModule) -> None:
    """Bring images into the layout in which all that follows works."""
    image = next(node for node in graph.graph.nodes if node.op == "placeholder")
    with graph.graph.inserting_after(image):
        last = graph.graph.call_method("contiguous", (image,), {"memory_format": torch.channels_last})
    image.replace_all_uses_with(last, lambda user: user is not last)
