"""What the five wrappers share: names, the full model behind them, and state dicts of either kind."""

from collections.abc import Callable, Sequence
from typing import Any

from timm.models import group_modules, group_parameters
from torch import Tensor, nn

from .._types import Model
from ..edits.lineage import mismatch

__all__ = ["FeatureWrapper", "accept_full_names"]


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
        self.classifier = (f"{head}.weight", f"{head}.bias")
        self.full_keys = frozenset((*model.state_dict(), *self.classifier))
        self._full = (model,)  # in a tuple: what the wrapper leaves out is not its parameter
        self.register_load_state_dict_pre_hook(accept_full_names)

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
        for module in set(model.modules()).difference(self.modules()):  # stages that the wrapper lacks follow it
            module.training = self.training
            if module._parameters or module._buffers:
                _follow(module, like)
        return model

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, H', W'): the last map, for clients that expect a classifier."""
        maps = self(x)
        return list(maps.values() if isinstance(maps, dict) else maps)[-1]

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """Initialise everything afresh, as in a newly created model; complete after `to_empty()` too."""
        self.full_model().init_weights(*args, **kwargs)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The full model's parameter groups, as a function of the wrapper's names; timm takes it as a matcher."""
        full = self._full[0]
        matcher = full.group_matcher(coarse)
        groups = {**group_modules(full, matcher, reverse=True), **group_parameters(full, matcher, reverse=True)}
        return lambda name: groups[self.full_name(name)]


def _follow(module: Model, like: Tensor) -> None:
    """Move a module to the device and dtype of a tensor; one without data (device `meta`) is initialised."""
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


def accept_full_names(module: FeatureWrapper, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let checkpoints of the full model and of its base load: keys in the wrapper's names, without those it lacks.

    torch calls it before it loads. A state dict that does not fit is left alone, so that torch names what is wrong.
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
    """A state dict of the base with the first edits, with the tensors of the others; empty if it is not one."""
    lineage = getattr(module._full[0], "lineage", None)
    if lineage is None or not lineage.edits:
        return {}
    try:
        return lineage.fitted({k: v for k, v in state_dict.items() if k not in module.classifier}, num_classes=0)
    except ValueError:
        return {}
