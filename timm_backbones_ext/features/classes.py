"""The five wrappers, each a subclass of timm's, and a wrapper that adds a norm to each map of another."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from timm.models import FeatureDictNet, FeatureGraphNet, FeatureHookNet, FeatureListNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._timm import FeatureGetterNet
from .._types import Model
from .wrapper import FeatureWrapper, accept_full_names

__all__ = ["FeatureDict", "FeatureGetter", "FeatureGraph", "FeatureHook", "FeatureList", "NormedFeatures"]


class _Sequence(FeatureWrapper):
    """Base class of the two wrappers that run their children in order."""

    def adopt(self, model: Model, out_indices: Sequence[int]) -> None:
        """Link the wrapper to its full model, and record the layers that it returns."""
        super().adopt(model, out_indices)
        chosen: dict[str, str] = {**self.return_layers}  # ty: ignore[invalid-argument-type] a dict, which timm sets
        self._chosen = (chosen, self.order, self.names)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "return_layers" and "_chosen" in self.__dict__:  # not while timm's constructor sets it
            value, self.order, self.names = self._exchanged(value)
        super().__setattr__(name, value)  # ty: ignore[invalid-argument-type] timm's annotation of a module

    def _exchanged(self, wanted: dict[str, str]) -> tuple[dict[str, str], list[int], list[str]]:
        """The layers to return, by the wrapper's names, and the order of their maps; unknown layers are left out."""
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
    """(N, C, H, W) -> dict of maps; a key is the index of the level as text."""

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
        out = super().forward(x)
        levels = list(out.values()) if isinstance(out, dict) else out
        maps = [levels[i] for i in self.order]
        return dict(zip(self.names, maps, strict=True)) if self.return_dict else maps


class FeatureGetter(FeatureWrapper, FeatureGetterNet):
    """(N, C, H, W) -> list of maps, by the model's `forward_intermediates`."""

    inside = "model"
    return_dict: Final[bool]  # ty: ignore[final-without-value] TorchScript compiles one of the two returns

    def adopt(self, model: Model, out_indices: Sequence[int]) -> None:
        """Link the wrapper to its full model."""
        super().adopt(model, out_indices)
        self.out_indices = sorted(set(out_indices))  # TorchScript needs a list

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations of the blocks in the backward pass instead of keeping them."""
        self.model.set_grad_checkpointing(enable)  # ty: ignore[not-callable] a method

    def forward(self, x: Tensor):
        """Maps in the order of `out_indices`."""
        levels = self.model.forward_intermediates(  # ty: ignore[not-callable] a method
            x, indices=self.out_indices, norm=self.norm, output_fmt=self.output_fmt, intermediates_only=True
        )
        assert isinstance(levels, list)  # TorchScript asks; of `intermediates_only` it is one
        if self.return_dict:
            return {name: levels[i] for name, i in zip(self.names, self.order)}
        return [levels[i] for i in self.order]


class FeatureGraph(FeatureWrapper, FeatureGraphNet):
    """(N, C, H, W) -> list of maps (a dict with `return_dict=True`), by a torch.fx graph of the model."""

    inside = "graph_module"
    return_dict: Final[bool]  # ty: ignore[final-without-value, override-of-final-variable] TorchScript compiles one of two returns

    def adopt(self, model: Model, out_indices: Sequence[int]) -> None:
        """Link the wrapper to its full model."""
        super().adopt(model, out_indices)
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the whole graph in the backward pass, since a graph has no separate blocks."""
        self.grad_checkpointing = enable

    def forward(self, x: Tensor):
        """Maps in the order of `out_indices`."""
        if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
            out = checkpoint(self.graph_module, x, use_reentrant=False)
        else:
            out = self.graph_module(x)
        levels = list(out.values())
        if self.return_dict:
            return {name: levels[i] for name, i in zip(self.names, self.order)}
        return [levels[i] for i in self.order]


class NormedFeatures(FeatureWrapper):
    """(N, C, H, W) -> the maps of the inner wrapper, each normalised by its own norm."""

    inside = "features"
    features: FeatureWrapper

    def __init__(self, features: FeatureWrapper, norms: nn.ModuleDict) -> None:
        super().__init__()
        self.features = features
        self.out_norms = nn.ModuleDict({level: norms[level] for level in dict.fromkeys(features.names)})
        self.feature_info, self.full_keys, self.classifier = (
            features.feature_info,
            features.full_keys,
            features.classifier,
        )
        self._full = features._full
        self.register_load_state_dict_pre_hook(accept_full_names)

    def full_name(self, name: str) -> str:
        """The name in the full model of a module or tensor of the wrapper."""
        head, _, rest = name.partition(".")
        return self.features.full_name(rest) if head == self.inside else name

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them, as the inner wrapper does."""
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
        if name == "return_layers":
            self.features.return_layers = value
        else:
            super().__setattr__(name, value)
