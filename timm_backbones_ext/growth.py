"""Exact growth: a trained net becomes a wider or deeper member of its family that computes the same.

Net2Net, https://arxiv.org/abs/1511.05641. A new channel is a copy of an old one. The next layer splits the old weight
at random between the two, so that the copies learn different features. A new residual block starts with a branch that
adds zero; a new plain conv starts as the identity. `families/` says which channels and blocks of a family may grow.
"""

import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ._types import Model
from .edits import edit, parse_edits
from .families import family_of
from .families.base import Growth
from .saving.identity import created_with

__all__ = ["grow"]

CHANNELWISE = ("frozen_bn", "in_chans", "kernel", "split_norm_act", "static_pad")
"""Edits that treat each channel separately, so that equal channels stay equal."""
LEFT_BEHIND = ("url", "hf_hub_id", "hf_hub_filename", "file", "source")
"""Entries of a pretrained config that say where weights are; they are removed from the larger model's config."""
FROM_SOURCE = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "license", "label_names", "num_classes")
"""Entries of a pretrained config that describe the weights; the larger model takes them from the smaller one."""


def grow(model: Model, to: str = "", *, seed: int = 0, **kwargs: Any) -> Model:
    """Create a larger model of the same family that computes the same function.

    Args:
        model: A full model, edited or not; it does not change.
        to: Name of the larger architecture, such as "efficientnet_b2"; "ext_efficientnet" by default if `phi=` is
            given (EfficientNet's compound scaling).
        seed: Seed of the new tensors and of the choice of channels to copy.
        kwargs: Further arguments of `timm.create_model` for the larger model, such as `phi=1.5`.

    Returns:
        A model of that name with the edits, classes, dtype and device of `model`; its config names the smaller model.

    Raises:
        ValueError: The growth cannot be exact; the message says why.
    """
    if not to and "phi" not in kwargs:
        raise ValueError('expected the name of a larger architecture, to="efficientnet_b2", or phi=')
    to = to or "ext_efficientnet"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        large = _created(model, to, kwargs)
        _require_same_family(model, large, to)
        first = next(model.parameters())
        large = large.to(device=first.device, dtype=first.dtype)
        plan = family_of(model).growth(model, large)
        large.load_state_dict(_Grower(model, large, plan).state())
        _require_same_function(model, large, to)
    _record(model, large, to, seed)
    return large.train(model.training)


def _created(model: Model, to: str, kwargs: dict[str, Any]) -> Model:
    """The larger model with the edits of the smaller one, freshly initialised."""
    args: dict[str, Any] = {"num_classes": model.num_classes, **created_with(model), **kwargs}
    edits, args["in_chans"] = list(getattr(model, "edits", ())), _channels(model)
    large = timm.create_model(to, **args)
    held = list(getattr(large, "edits", ()))
    if edits[: len(held)] != held:
        raise ValueError(f"{to} has the edits {', '.join(held)}; the model has {', '.join(edits) or 'none'}")
    return edit(large, *edits[len(held) :]) if edits[len(held) :] else large


def _channels(model: Model) -> int:
    """Input channels of a model without its edit `in_chans`."""
    added = [item for item in parse_edits(getattr(model, "edits", ())) if item.name == "in_chans"]
    return model.pretrained_cfg["input_size"][0] if added else model.in_chans


def _require_same_family(model: Model, large: Model, to: str) -> None:
    if family_of(model) is not family_of(large):
        raise ValueError(
            f"{to} is a {family_of(large).name} and the model a {family_of(model).name}; they share no layers"
        )


class _Grower:
    """Computes the tensors of the larger model from those of the smaller one."""

    def __init__(self, small: Model, large: Model, plan: Growth) -> None:
        self.small, self.large, self.plan = small.state_dict(), large, plan
        self.copies: dict[str, Tensor] = {}  # space -> the old channel that each new one copies
        self.edits = [item.name for item in parse_edits(getattr(small, "edits", ()))]

    def state(self) -> dict[str, Tensor]:
        """The state dict of the larger model."""
        state, fresh = self.large.state_dict(), tuple(f"{name}." for name in self.plan.fresh)
        if lacking := [key for key in state if not key.startswith(fresh) and self._source(key) not in self.small]:
            raise ValueError(f"the smaller net has no {lacking[0]}; nets of different blocks share no function")
        grown = {key: value if key.startswith(fresh) else self._grown(key, value) for key, value in state.items()}
        for key in self.plan.silent:
            grown[key] = torch.zeros_like(grown[key])
        for conv, norm in self.plan.passing:
            grown[f"{conv}.weight"] = nn.init.dirac_(torch.zeros_like(grown[f"{conv}.weight"]))
            grown[f"{conv}.bias"] = torch.zeros_like(grown[f"{conv}.bias"])
            if norm:
                eps = self.large.get_submodule(norm).eps
                grown[f"{norm}.weight"] = (grown[f"{norm}.running_var"] + eps).sqrt()
        return grown

    def _source(self, key: str) -> str:
        """The key in the smaller model for a key of the larger one."""
        module = next((name for name in self.plan.renamed if key.startswith(f"{name}.")), "")
        return self.plan.renamed[module] + key.removeprefix(module) if module else key

    def _grown(self, key: str, like: Tensor) -> Tensor:
        """A tensor of the smaller model, grown to the shape of the larger model's tensor."""
        value, widths = self.small[self._source(key)], self.plan.widths.get(key.rpartition(".")[0])
        if widths and widths.writes and value.ndim:
            value = value[self._copied(widths.writes, len(value), len(like))]
        if widths and widths.reads and value.ndim > 1:
            value = self._shared(value, self._copied(widths.reads, value.shape[1], like.shape[1]))
        if value.shape != like.shape:
            old, new = tuple(value.shape), tuple(like.shape)
            raise ValueError(f"{key} would grow from {old} to {new}, which is not exact: {self._why(key)}")
        return value

    def _copied(self, space: str, old: int, new: int) -> Tensor:
        """Index of the old channel that each channel copies: first the old channels in order, then random ones."""
        if space not in self.copies:
            if new < old:
                raise ValueError(f"{space}: {old} channels would become {new}; a net cannot shrink")
            if new > old:
                self._require_growing(space, old, new)
            self.copies[space] = torch.cat([torch.arange(old), torch.randint(old, (new - old,))])
        return self.copies[space]

    def _require_growing(self, space: str, old: int, new: int) -> None:
        for first, reason in self.plan.fixed.items():
            if space.startswith(first):
                raise ValueError(f"{space} cannot grow from {old} to {new} channels: {reason}")
        if mixing := [name for name in self.edits if name not in CHANNELWISE]:
            raise ValueError(
                f"{space} cannot grow from {old} to {new} channels: the edit {mixing[0]} has tensors for a number of "
                "channels. Grow the net first and edit it then, or grow it in depth only"
            )

    @staticmethod
    def _shared(value: Tensor, copies: Tensor) -> Tensor:
        """Weights for the grown input channels: the weight of an old channel is split at random among its copies."""
        parts = torch.rand(len(copies), dtype=torch.float64) + 0.5
        total = torch.zeros(value.shape[1], dtype=torch.float64).index_add_(0, copies, parts)
        share = (parts / total[copies]).to(value).reshape(1, -1, *[1] * (value.ndim - 2))
        return value[:, copies] * share

    def _why(self, key: str) -> str:
        if family_of(self.large).name == "convnext" and re.search(r"stem|norm|conv_dw|gamma|downsample|fc", key):
            return "layer norms take means over the channels of the residual stream, and copies of some change the mean"
        return "these channels are shared by blocks that cannot be given copies of them"


def _require_same_function(model: Model, large: Model, to: str) -> None:
    """Compare the outputs of both models: activations, padding and epsilons are not part of their tensors."""
    first = next(model.parameters())
    side = 64 if family_of(model).name != "vgg" else 32
    x = torch.randn(1, model.in_chans, side, side).to(first)
    modes = model.training
    with torch.no_grad():
        wanted, got = model.eval().forward_features(x), large.eval().forward_features(x)
    model.train(modes)
    error = (got[:, : wanted.shape[1]] - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)
    if not error <= (1e-3 if first.dtype in (torch.float32, torch.float64) else 0.1):
        raise ValueError(
            f"{to} computes something else with the same tensors (relative difference {error:.1e}): its activations, "
            "pads, strides or epsilons are others"
        )


def _record(model: Model, large: Model, to: str, seed: int) -> None:
    """Write into the config, from which the card is made, what the model grew from."""
    old, new = model.pretrained_cfg, large.pretrained_cfg
    name = ".".join(filter(None, (old.get("architecture"), old.get("tag"))))
    kept = {key: value for key, value in new.items() if key not in (*LEFT_BEHIND, *FROM_SOURCE)}
    kept |= {key: old[key] for key in FROM_SOURCE if key in old}
    notes = (*(old.get("notes") or ()), f"Grown from {name} to {to}, which computed the same then (seed {seed}).")
    tag = f"grown_from_{old.get('architecture')}"
    large.pretrained_cfg = large.default_cfg = {**kept, "tag": tag, "notes": notes}
