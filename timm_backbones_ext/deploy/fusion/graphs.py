"""A model as a torch.fx graph from an image to a flat list of maps, with the parts that cannot be traced kept whole."""

import copy
from typing import Any, NamedTuple

import torchvision.ops
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, LayerNorm2d, SEModule
from timm.models import is_notrace_module
from torch import Tensor, fx, nn

from ..._timm import ConvNeXtBlock, SqueezeExcite
from ..._types import Model
from ...detection import Pyramid
from ...edits import merge, parse_edits
from ...families import FAMILIES
from ...features import FeatureDict, FeatureWrapper, wrap
from ...layers import ExtendedConv2d

__all__ = ["Traced", "listed", "trace", "unique_outputs"]

WHOLE = (
    BatchNormAct2d,
    torchvision.ops.FrozenBatchNorm2d,
    FrozenBatchNormAct2d,
    LayerNorm2d,
    SEModule,
    SqueezeExcite,
    ConvNeXtBlock,
)
"""Modules that stay one node of the graph, because a later step replaces them whole."""


class Traced(NamedTuple):
    """A graph and what is needed to use it as the model."""

    graph: fx.GraphModule
    names: dict[str, str]
    """Names in the full model of the graph's modules, where they differ."""
    untraced: dict[str, str]
    """Modules that are kept whole because they cannot be traced, and why."""


def trace(model: Model) -> Traced:
    """The graph of a model in eval mode, which may be changed by this: pass a copy.

    Raises:
        ValueError: The model's own `forward` cannot be traced.
    """
    root, tracer = _Flat(_plain(model)), _Tracer()
    try:
        graph = tracer.trace(root)
    except Exception as error:  # whatever a strange forward raises when it meets a proxy
        raise ValueError(
            f"fuse cannot follow the forward of {type(model).__name__}: {error}. It takes timm models of the families "
            f"{', '.join(FAMILIES)}, their features_only models and pyramids"
        ) from error
    made = fx.GraphModule(root, graph)
    made.graph.eliminate_dead_code()
    made.delete_all_unused_submodules()
    names = {name: root.full_name(name) for name, _ in made.named_modules()}
    return Traced(made, names, {root.full_name(name): why for name, why in tracer.untraced.items()})


def listed(out: Any) -> list[Tensor]:
    """What a model gives, as a list."""
    if isinstance(out, Tensor):
        return [out]
    return list(out.values() if isinstance(out, dict) else out)


def unique_outputs(graph: fx.GraphModule) -> list[int]:
    """Let a graph give each map once, as a tuple; the index of every former output among them."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    given = output.args[0] if isinstance(output.args[0], list | tuple) else [output.args[0]]
    unique = list(dict.fromkeys(given))
    output.args = (tuple(unique),)  # pnnx takes a list for an operator
    graph.recompile()
    return [unique.index(node) for node in given]


class _Flat(nn.Module):
    """(N, C, H, W) -> what the model gives, a dict as the list of its values."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> "Tensor | list[Tensor]":
        out = self.model(x)
        return list(out.values()) if isinstance(out, dict) else out

    def full_name(self, name: str) -> str:
        """What the full model, or the pyramid, calls a module of this one."""
        name = name.removeprefix("model").removeprefix(".")
        if isinstance(self.model, FeatureWrapper):
            return self.model.full_name(name)
        if isinstance(self.model, Pyramid) and name.startswith("body.") and isinstance(self.model.body, FeatureWrapper):
            return f"body.{self.model.body.full_name(name.removeprefix('body.'))}"
        return name


def _plain(model: Model) -> Model:
    """The model with its edits merged and without recomputation; feature wrappers in the form that can be traced."""
    if isinstance(model, Pyramid):
        plain = copy.copy(model)
        plain._modules = {**model._modules, "body": _plain(model.body)}
        return plain
    if isinstance(model, FeatureWrapper) and not getattr(model, "norm", False):
        indices, features = model.feature_info.out_indices, getattr(model, "features", model)
        if isinstance(features, FeatureDict) or getattr(features, "return_dict", False):
            indices = tuple(dict.fromkeys(indices))  # a dict has each map once
        return wrap(_merged(model.full_model()), "list", indices)
    return _merged(model)


def _merged(model: Model) -> Model:
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(False)
    if any(item.merges() for item in parse_edits(getattr(model, "edits", ()))):
        merge(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, ExtendedConv2d) and name:
            model.set_submodule(name, module.fuse())
    return model


class _Tracer(fx.Tracer):
    """torch.fx's tracer; a module that it cannot follow becomes one node."""

    def __init__(self) -> None:
        super().__init__()
        self.untraced: dict[str, str] = {}
        self.parameters_seen: dict[str, Any] = {}

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter that a forward uses, as a node; the tracer's own cache of them is kept in sight."""
        self.parameters_seen = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        activation = type(m).__module__.startswith("timm.layers.activations")
        whole = isinstance(m, WHOLE) or activation or is_notrace_module(type(m))
        return whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        mark, depth = next(iter(reversed(self.graph.nodes))), len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # whatever a strange forward raises when it meets a proxy
            name = self.path_of_module(m)
            if name == "model":
                raise
            while (last := next(iter(reversed(self.graph.nodes)))) is not mark:
                self.graph.erase_node(last)
            while len(self.module_stack) > depth:
                self.module_stack.popitem()
            self.parameters_seen.clear()  # erased nodes may be among them
            self.untraced[name] = str(error).partition("\n")[0]
            return self.create_proxy("call_module", name, args, kwargs)
