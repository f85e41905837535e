"""Low-rank branches parallel to pretrained layers: LoRA, https://arxiv.org/abs/2106.09685; for convs as in LoCon."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from .._types import Model
from ..families import layers
from ..layers import fold_low_rank, low_rank_of, with_low_rank
from .base import Edit, register_edit

__all__ = ["TARGETS", "Lora"]

TARGETS = ("all", "conv3x3", "pointwise")
"""Kinds of layers: every conv and linear layer of the blocks, 3x3 convs, or 1x1 convs and linear layers."""


@register_edit(
    families=("resnet", "convnext", "efficientnet", "vgg"),
    exact="eval+train",
    evidence="warm insertion: on par with full fine-tuning of GPT-3, with 10,000 times fewer parameters trained (LoRA, "
    "abstract); no figure for convs",
)
@dataclass(frozen=True)
class Lora(Edit):
    """W x + B A x for convs and linear layers: A has the layer's kernel and `rank` channels, B is 1x1 and starts at 0.

    `targets` is a kind of layers in the blocks of `stages`, or, as in PEFT, names of modules or the last parts of
    names: `("conv2", "fc1")`. The kinds leave out depthwise convs, whose filters already have rank one. The paper's
    scale, alpha / r, is 1 here; the learning rate has the same effect (section 4.1).
    """

    rank: int = 8
    stages: tuple[int, ...] | None = None
    targets: str | tuple[str, ...] = "all"

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"lora: rank must be a whole number from 1; got {self.rank!r}")
        named = isinstance(self.targets, tuple) and self.targets and all(isinstance(t, str) for t in self.targets)
        if not named and self.targets not in TARGETS:
            raise ValueError(
                f"lora: targets must be one of {', '.join(TARGETS)} or names of layers; got {self.targets!r}"
            )
        if named and self.stages is not None:
            raise ValueError("lora: stages cannot be combined with names of layers in targets; leave one of them out")

    def apply(self, model: Model) -> None:
        """Add a branch to every target layer."""
        chosen = list(self.layers(model))
        if not chosen:
            raise ValueError(
                f"lora: no layer for targets={self.targets!r} in stages={self.stages}; depthwise convs are left out"
            )
        for name, layer in chosen:
            try:
                model.set_submodule(name, with_low_rank(layer, self.rank))
            except ValueError as error:
                raise ValueError(
                    f"lora: cannot put a branch beside {name}, a {type(layer).__name__}. Two edits cannot share a "
                    f"layer: give each its own stages, or name other targets. {error}"
                ) from error

    def merge(self, model: Model) -> None:
        """Add B A to the weight of each layer, in float64 with one rounding."""
        for name, layer in list(model.named_modules()):
            if low_rank_of(layer) is not None:
                model.set_submodule(name, fold_low_rank(layer))

    def layers(self, model: Model) -> Iterator[tuple[str, Any]]:
        """Names and modules of the layers that get a branch."""
        if isinstance(self.targets, tuple):
            yield from self._named(model)
            return
        for name, layer in layers(model, self.stages):
            depthwise = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels
            if not depthwise and self.targets in ("all", _kind(layer)):
                yield name, layer

    def _named(self, model: Model) -> Iterator[tuple[str, Any]]:
        """The layers that `targets` names, by PEFT's rule: a whole name, or its end after a dot."""
        found = [
            (name, layer, target)
            for name, layer in model.named_modules()
            for target in self.targets
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and (name == target or name.endswith(f".{target}"))
        ]
        if missing := set(self.targets) - {target for _, _, target in found}:
            raise ValueError(f"lora: the model has no conv or linear layer {sorted(missing)[0]!r}")
        yield from {name: layer for name, layer, _ in found}.items()


def _kind(layer: nn.Module) -> str:
    size = getattr(layer, "kernel_size", (1, 1))
    return {(1, 1): "pointwise", (3, 3): "conv3x3"}.get(size, "")
