"""Batch norms folded into the convs before them: exact in eval mode, on any device, in any runtime."""

from typing import Any

import torchvision.ops
from timm.layers import BatchNormAct2d, Conv2dSame, DropPath, FrozenBatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...layers import DeformConv2d, ExtendedConv2d

__all__ = ["fold", "is_plain_conv", "replace", "sole_user"]

NORMS = (_BatchNorm, torchvision.ops.FrozenBatchNorm2d, FrozenBatchNormAct2d)
SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d, DropPath)
"""Modules that do nothing in eval mode."""


def fold(graph: fx.GraphModule) -> tuple[list[str], dict[str, str]]:
    """Fold batch norms into the convs before them, in place, and drop what does nothing in eval mode.

    Args:
        graph: A traced model in float64, so that tensors are rounded once, afterwards.

    Returns:
        Names of the norms that were folded; names of those that stay, and why.
    """
    folded, left = [], {}
    for node in list(graph.graph.nodes):
        module = called(graph, node)
        if isinstance(module, SILENT):
            replace(node, node.args[0])
        elif isinstance(module, NORMS):
            if why := _fold_norm(graph, node, module):
                left[node.target] = why
            else:
                folded.append(node.target)
    graph.graph.lint()
    graph.recompile()
    return folded, left


def called(graph: fx.GraphModule, node: fx.Node) -> Any:
    """The module that a node calls; None if it is no call of a module, or one of several calls of the same."""
    if node.op != "call_module" or sum(n.target == node.target for n in graph.graph.find_nodes(**_like(node))) != 1:
        return None
    return graph.get_submodule(str(node.target))


def _like(node: fx.Node) -> dict[str, Any]:
    return {"op": node.op, "target": node.target}


def replace(node: fx.Node, by: Any) -> None:
    """Let another node stand for one that is no longer needed."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def sole_user(node: Any) -> fx.Node | None:
    """The one node that uses another; None if there are more."""
    return next(iter(node.users)) if isinstance(node, fx.Node) and len(node.users) == 1 else None


def is_plain_conv(module: Any) -> bool:
    """Whether a module is a 2d conv and nothing else, whatever its padding."""
    if isinstance(module, ExtendedConv2d):
        return not module.branches and isinstance(module.gate, nn.Identity)
    return type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros"


def _fold_norm(graph: fx.GraphModule, node: fx.Node, norm: Any) -> str:
    """Fold one norm; why it stays if it cannot be."""
    before: Any = node.args[0]
    conv = called(graph, before)
    if not is_plain_conv(conv) and type(conv) is not DeformConv2d:
        return f"no plain conv is before it, but {before.target if conv is None else type(conv).__name__}"
    if len(before.users) != 1:
        return f"what {before.target} gives is used elsewhere too"
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics"
    _scale(conv, *_affine(norm))
    activation = nn.Sequential(*(m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if m))
    if isinstance(norm, BatchNormAct2d) or hasattr(norm, "act"):
        kept = [m for m in activation if not isinstance(m, SILENT)]
        if kept:
            graph.set_submodule(str(node.target), kept[0] if len(kept) == 1 else nn.Sequential(*kept))
            return ""
    replace(node, before)
    return ""


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a norm in eval mode."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach()


def _scale(conv: Any, scale: Tensor, shift: Tensor) -> None:
    """Multiply and shift what a conv gives."""
    conv.weight = nn.Parameter(conv.weight.detach() * scale[:, None, None, None], requires_grad=False)
    bias = shift if conv.bias is None else shift + conv.bias.detach() * scale
    conv.bias = nn.Parameter(bias, requires_grad=False)
