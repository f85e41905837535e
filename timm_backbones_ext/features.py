"""Feature wrappers: timm's five ways to return multi-scale maps, with what detectors need of them.

Each class is timm's own with these differences, all measured against timm 1.0.31: `out_indices` may be in any order and
repeat, and `feature_info` agrees with what comes out; no parameter is left without a gradient; layer-wise learning-rate
decay finds the model's own groups; weights load from a full model's checkpoint; `set_grad_checkpointing` works on all;
`full_model()` gives the classifier-less model back, which is how a wrapper is saved, initialised and fingerprinted;
`return_layers` may be exchanged, as transformers does for hidden states, by modules' names in the wrapper or the model.
"""

import copy
from collections.abc import Sequence
from typing import Any

from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ._timm import FeatureGetterNet
from ._types import Model

__all__ = ["FeatureDict", "FeatureGetter", "FeatureGraph", "FeatureHook", "FeatureList", "FeatureWrapper", "wrap"]


class FeatureWrapper(nn.Module):
    """What the five wrappers share: the full model behind them, and the names that link the two."""

    inside: str = ""
    """Child that holds the model whole; empty where the model's parts are children of the wrapper itself."""

    def adopt(self, model: Model, out_indices: Sequence[int]) -> None:
        """Link the wrapper to its full model; called once, after timm's constructor."""
        taken = sorted(set(out_indices))
        self.order = [taken.index(i) for i in out_indices]
        self.names = [str(i) for i in out_indices]
        self.feature_info = self.feature_info.from_other(tuple(out_indices))
        self.flattened = dict(_flattened(model))
        head = model.pretrained_cfg.get("classifier")
        self.full_keys = frozenset((*model.state_dict(), f"{head}.weight", f"{head}.bias"))
        self._full = (model,)  # in a tuple: what the wrapper leaves out is not its parameter
        self.register_load_state_dict_pre_hook(_accept_full_names)

    def full_name(self, name: str) -> str:
        """What the full model calls a module or tensor of the wrapper."""
        if self.inside:
            return name.removeprefix(f"{self.inside}.")
        head, dot, rest = name.partition(".")
        return self.flattened.get(head, head) + dot + rest

    def full_model(self) -> Model:
        """The model with `num_classes=0` whose features these are; tensors are shared with the wrapper."""
        model, like = self._full[0], next(self.parameters())
        for name, module in self.named_modules():
            if type(module) is nn.Module:  # a graph has bare ones, for tensors that a block's own forward uses
                block = model.get_submodule(self.full_name(name))
                block._parameters.update(module._parameters)
                block._buffers.update(module._buffers)
            elif module._parameters or module._buffers:
                model.set_submodule(self.full_name(name), module)
        for module in set(model.modules()).difference(self.modules()):  # what the wrapper left out follows it
            module.training = self.training
            if module._parameters or module._buffers:
                _follow(module, like)
        return model

    def _ordered(self, levels: list[Tensor]) -> "list[Tensor] | dict[str, Tensor]":
        maps = [levels[i] for i in self.order]
        return dict(zip(self.names, maps, strict=True)) if self.return_dict else maps

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, H', W'): the last map, for clients that expect a classifier."""
        maps = self(x)
        return list(maps.values() if isinstance(maps, dict) else maps)[-1]

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """Initialise everything afresh, as in a newly created model; complete after `to_empty()` too."""
        self.full_model().init_weights(*args, **kwargs)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The full model's parameter groups, with patterns for the wrapper's names."""
        return {key: self._renamed(spec) for key, spec in self._full[0].group_matcher(coarse).items()}

    def _renamed(self, spec: Any) -> Any:
        if not isinstance(spec, str):
            return [(self._renamed(pattern), suffix) for pattern, suffix in spec]
        if self.inside:
            return rf"{self.inside}\.(?:{spec.replace('^', '')})"
        return spec.replace(r"\.", "[._]")


def _follow(module: Model, like: Tensor) -> None:
    """Move a module to the device and dtype of a tensor; one without data, from the meta device, starts afresh."""
    if like.device.type != "meta" and any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        module.to_empty(device=like.device)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    module.to(like)


def _flattened(model: Model) -> "Sequence[tuple[str, str]]":
    """Names that timm gives the members of a model's sequential children, as `stages_0` for `stages.0`."""
    children = [(name, child) for name, child in model.named_children() if isinstance(child, nn.Sequential)]
    return [(f"{name}_{member}", f"{name}.{member}") for name, child in children for member in child._modules]


def _accept_full_names(module: FeatureWrapper, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let a full model's checkpoint load: rename its keys, drop those that the wrapper has no module for."""
    own = {prefix + module.full_name(key): prefix + key for key in module.state_dict()}
    for key in state_dict.keys() - own.values():
        if key in own:
            state_dict[own[key]] = state_dict.pop(key)
        elif key.startswith(prefix) and key.removeprefix(prefix) in module.full_keys:
            del state_dict[key]


class _Sequence(FeatureWrapper):
    """What the two wrappers that run their children in order share."""

    def adopt(self, model: Model, out_indices: Sequence[int]) -> None:
        """Link the wrapper to its full model, and remember what it returns."""
        super().adopt(model, out_indices)
        chosen: dict[str, str] = {**self.return_layers}  # ty: ignore[invalid-argument-type] a dict, which timm sets
        self._chosen = (chosen, self.order, self.names)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "return_layers" and "_chosen" in self.__dict__:
            value, self.order, self.names = self._exchanged(value)
        super().__setattr__(name, value)  # ty: ignore[invalid-argument-type] timm's annotation of a module

    def _exchanged(self, wanted: dict[str, str]) -> tuple[dict[str, str], list[int], list[str]]:
        """The layers to return, by the wrapper's names, and the order of their maps; those it lacks are left out."""
        flat = {dotted: name for name, dotted in self.flattened.items()}
        layers = {flat.get(name, name): key for name, key in wanted.items()}
        run = [name for name in self._modules if name in layers]
        if set(run) == self._chosen[0].keys():
            return self._chosen
        held = [name for name in layers if name in run]
        return {name: layers[name] for name in held}, [run.index(name) for name in held], [layers[n] for n in held]


class FeatureList(_Sequence, FeatureListNet):
    """(N, C, H, W) -> list of maps, one per entry of `out_indices`; the default."""

    set_grad_checkpointing = FeatureListNet.set_grad_checkpointing

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps in the order of `out_indices`."""
        levels = list(self._collect(x).values())
        return [levels[i] for i in self.order]


class FeatureDict(_Sequence, FeatureDictNet):
    """(N, C, H, W) -> dict of maps, keyed by the level's index as text."""

    set_grad_checkpointing = FeatureDictNet.set_grad_checkpointing

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps in the order of `out_indices`."""
        levels = list(self._collect(x).values())
        return {name: levels[i] for name, i in zip(self.names, self.order)}


class FeatureHook(FeatureWrapper, FeatureHookNet):
    """(N, C, H, W) -> list of maps (a dict with `return_dict=True`), taken by forward hooks."""

    set_grad_checkpointing = FeatureHookNet.set_grad_checkpointing

    def forward(self, x: Tensor) -> "list[Tensor] | dict[str, Tensor]":
        """Maps in the order of `out_indices`."""
        levels = super().forward(x)
        return self._ordered(list(levels.values()) if self.return_dict else levels)


class FeatureGetter(FeatureWrapper, FeatureGetterNet):
    """(N, C, H, W) -> list of maps, by the model's `forward_intermediates`."""

    inside = "model"
    model: Model

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations of the blocks in the backward pass instead of keeping them."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> "list[Tensor] | dict[str, Tensor]":
        """Maps in the order of `out_indices`."""
        return self._ordered(super().forward(x))


class FeatureGraph(FeatureWrapper, FeatureGraphNet):
    """(N, C, H, W) -> list of maps (a dict with `return_dict=True`), by a torch.fx graph of the model."""

    inside = "graph_module"
    grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the whole graph in the backward pass; it has no blocks left to recompute one by one."""
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> "list[Tensor] | dict[str, Tensor]":
        """Maps in the order of `out_indices`."""
        recompute = self.grad_checkpointing and self.training
        out = checkpoint(self.graph_module, x, use_reentrant=False) if recompute else self.graph_module(x)
        return self._ordered(list(out.values()))


class NormedFeatures(FeatureWrapper):
    """(N, C, H, W) -> what the wrapper inside returns, with a norm of its own on each map."""

    inside = "features"
    features: FeatureWrapper

    def __init__(self, features: FeatureWrapper, norms: Model) -> None:
        super().__init__()
        self.features = features
        self.out_norms = nn.ModuleDict({level: norms[level] for level in dict.fromkeys(features.names)})
        for name in ("feature_info", "full_keys", "_full"):
            setattr(self, name, getattr(features, name))
        self.register_load_state_dict_pre_hook(_accept_full_names)

    def full_name(self, name: str) -> str:
        """What the full model calls a module or tensor of the wrapper."""
        head, _, rest = name.partition(".")
        return self.features.full_name(rest) if head == self.inside else name

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The full model's parameter groups, with patterns for the wrapper's names."""
        return {key: self._renamed(spec) for key, spec in self.features.group_matcher(coarse).items()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them, as the wrapper inside does."""
        self.features.set_grad_checkpointing(enable)  # ty: ignore[not-callable]

    def forward(self, x: Tensor) -> "list[Tensor] | dict[str, Tensor]":
        """Maps in the order of `out_indices`."""
        maps = self.features(x)
        if isinstance(maps, dict):
            return {name: self._normed(name, level) for name, level in maps.items()}
        return [self._normed(name, level) for name, level in zip(self.features.names, maps, strict=True)]

    def _normed(self, name: str, level: Tensor) -> Tensor:
        return self.out_norms[name](level) if name in self.out_norms else level

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value) if name != "return_layers" else setattr(self.features, name, value)


_BY_NAME = {
    "list": FeatureList,
    "dict": FeatureDict,
    "hook": FeatureHook,
    "getter": FeatureGetter,
    "fx": FeatureGraph,
}
_OURS = {cls.__bases__[-1]: cls for cls in _BY_NAME.values()}


def wrap(
    model: Model,
    feature_cls: str | type[nn.Module] | None = None,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
) -> Model:
    """Turn a full model into one that returns feature maps.

    Args:
        model: A timm model with `feature_info`; it loses its classifier.
        feature_cls: "list" (the default), "dict", "hook", "getter", "fx", or a class of timm's or of your own.
        out_indices: Levels in the order wanted; negative ones count from the end, an int takes the last n;
            all levels by default.
        options: Further arguments of the class, such as `return_dict` or `norm`.

    Raises:
        ValueError: A level that the model does not have, or an unknown class name.
    """
    cls = _feature_class(feature_cls)
    indices = _levels(out_indices, len(model.feature_info))
    model.reset_classifier(0)
    if not issubclass(cls, FeatureWrapper):
        return _described(cls(model, out_indices=tuple(indices), **options), model)
    taken, source = sorted(set(indices)), model
    if cls.inside:  # timm's wrapper prunes the model that it holds; the full one is to stay whole
        source = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
        source._modules.pop("out_norms", None)  # they come after the wrapper
        source.prune_intermediate_layers(taken, prune_norm=not options.get("norm", False))
    else:
        options["flatten_sequential"] = any("." in info["module"] for info in model.feature_info)
    fixed = {FeatureGetter: {"prune": False}, FeatureHook: {"no_rewrite": False}}.get(cls, {})
    wrapper = cls(source, out_indices=tuple(taken), **{**options, **fixed})
    wrapper.adopt(model, indices)
    if hasattr(model, "out_norms"):
        wrapper = NormedFeatures(wrapper, model.out_norms)
    return _described(wrapper, model)


def _feature_class(spec: str | type[nn.Module] | None) -> type[nn.Module]:
    if spec is None:
        return FeatureList
    if isinstance(spec, str):
        if spec.lower() not in _BY_NAME:
            raise ValueError(f"unknown feature_cls {spec!r}; there is: {', '.join(_BY_NAME)}, or a class")
        return _BY_NAME[spec.lower()]
    return _OURS.get(spec, spec)


def _levels(out_indices: int | Sequence[int] | None, levels: int) -> list[int]:
    """Non-negative indices of the levels asked for, in that order."""
    if out_indices is None:
        return list(range(levels))
    asked = list(range(-out_indices, 0)) if isinstance(out_indices, int) else list(out_indices)
    if not asked or any(not -levels <= i < levels for i in asked):
        raise ValueError(f"out_indices {out_indices!r}: the model has levels 0 to {levels - 1}")
    return [i % levels for i in asked]


def _described(wrapper: Model, model: Model) -> Model:
    """Give the wrapper the attributes that timm's builder gives a feature model."""
    dropped = ("num_classes", "classifier", "global_pool")
    wrapper.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in dropped}
    wrapper.default_cfg = wrapper.pretrained_cfg
    wrapper.in_chans, wrapper._traits = model.in_chans, dict(model._traits)
    wrapper.num_features = wrapper.feature_info.channels()[-1]
    return wrapper
