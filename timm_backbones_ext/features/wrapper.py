"""Base class of the five wrappers: names, the full model, and state dicts of wrapper and full model."""

from collections.abc import Callable, Sequence
from typing import Any

from timm.models import group_modules, group_parameters
from torch import Tensor, nn

from .._types import Model
from ..edits.lineage import mismatch

__all__ = ["FeatureWrapper", "accept_full_names"]


class FeatureWrapper(nn.Module):
    """Base class of the five wrappers: holds the full model, and maps the wrapper's names to its names."""

    inside: str = ""
    """Name of the child that is the whole model; empty if the model's parts are children of the wrapper."""

    def adopt(self, model: Model, out_indices: Sequence[int]) -> None:
        """Link the wrapper to its full model; called once, after timm's constructor."""
        taken = sorted(set(out_indices))
        self.order = [taken.index(i) for i in out_indices]
        self.names = [str(i) for i in out_indices]
        self.feature_info = self.feature_info.from_other(tuple(out_indices))
        self.flattened = dict(_flattened(model))
        head = model.pretrained_cfg.get("classifier")
        self.classifier = (f"{head}.weight", f"{head}.bias")
        self.full_keys = frozenset((*model.state_dict(), *self.classifier))
        self._full = (model,)  # in a tuple, so that the full model's parameters are not the wrapper's
        self.register_load_state_dict_pre_hook(accept_full_names)

    def full_name(self, name: str) -> str:
        """The name in the full model of a module or tensor of the wrapper."""
        if self.inside:
            return name.removeprefix(f"{self.inside}.")
        head, dot, rest = name.partition(".")
        return self.flattened.get(head, head) + dot + rest

    def full_model(self) -> Model:
        """The full model with `num_classes=0`; it shares its tensors with the wrapper."""
        model, like = self._full[0], next(self.parameters())
        for name, module in self.named_modules():
            if type(module) is nn.Module:  # an fx graph holds bare tensors that a block's forward uses
                block = model.get_submodule(self.full_name(name))
                block._parameters.update(module._parameters)
                block._buffers.update(module._buffers)
            elif module._parameters or module._buffers:
                model.set_submodule(self.full_name(name), module)
        for module in set(model.modules()).difference(self.modules()):  # stages that it lacks
            module.training = self.training
            if module._parameters or module._buffers:
                _follow(module, like)
        return model

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, H', W'): the last map, for code that expects a full model."""
        maps = self(x)
        return list(maps.values() if isinstance(maps, dict) else maps)[-1]

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """Initialise all tensors as in a new model, also after `to_empty()`."""
        self.full_model().init_weights(*args, **kwargs)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The full model's parameter groups, as a function of the wrapper's names, in the form of timm's matchers."""
        full = self._full[0]
        matcher = full.group_matcher(coarse)
        groups = {**group_modules(full, matcher, reverse=True), **group_parameters(full, matcher, reverse=True)}
        return lambda name: groups[self.full_name(name)]


def _follow(module: Model, like: Tensor) -> None:
    """Move a module to the device and dtype of a tensor; a module on the device `meta` is initialised."""
    if like.device.type != "meta" and any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        module.to_empty(device=like.device)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    module.to(like)


def _flattened(model: Model) -> "Sequence[tuple[str, str]]":
    """timm's names for the members of a model's sequential children, such as `stages_0` for `stages.0`."""
    children = [(name, child) for name, child in model.named_children() if isinstance(child, nn.Sequential)]
    return [(f"{name}_{member}", f"{name}.{member}") for name, child in children for member in child._modules]


def accept_full_names(module: FeatureWrapper, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename the keys of a full model's or base's checkpoint to the wrapper's names; drop keys that the wrapper lacks.

    A pre-hook of `load_state_dict`. It does not change a state dict that does not fit, so that torch reports its keys.
    """
    wanted = module.state_dict()
    own = {module.full_name(key): key for key in wanted}
    got = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    full = {module.full_name(key.removeprefix(prefix)): value for key, value in got.items()}
    held = {own.get(name, name): value for name, value in full.items() if name in own or name not in module.full_keys}
    if mismatch(held, wanted):
        fitted = _fitted(module, full)
        held = {own[name]: value for name, value in fitted.items() if name in own} if fitted else held
    for key in got:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in held.items()})


def _fitted(module: FeatureWrapper, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Complete a state dict of the base with the first k edits; empty if the state dict fits no k."""
    lineage = getattr(module._full[0], "lineage", None)
    if lineage is None or not lineage.edits:
        return {}
    try:
        return lineage.fitted({k: v for k, v in state_dict.items() if k not in module.classifier}, num_classes=0)
    except ValueError:
        return {}
