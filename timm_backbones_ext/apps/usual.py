"""Edits with the usual initialisation of their tensors, where ours is the identity: what studies compare with."""

from collections.abc import Callable

import torch
from timm.models import adapt_input_conv
from torch import nn

from .._types import Model
from ..edits import edit, parse_edits
from ..families import depthwise_convs, family_of, first_conv
from ..growth import grow
from ..layers import Branch, DeformConv2d
from ..layers.attention import Attention, NeutralGate

__all__ = ["USUAL", "edit_usually", "grow_usually", "masks_at_half"]


def edit_usually(model: Model, item: str) -> Model:
    """Apply an edit to a live model in place, with the usual initialisation of its tensors.

    Raises:
        ValueError: The edit has no other initialisation, or cannot be applied.
    """
    (parsed,) = parse_edits(item)
    if parsed.name not in USUAL:
        raise ValueError(f"{parsed.name} has no initialisation but the identity; there are: {', '.join(USUAL)}")
    before = {name: module.weight.detach() for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    edit(model, parsed)
    USUAL[parsed.name](model, before)
    return model


def grow_usually(model: Model, to: str, seed: int = 0) -> Model:
    """Grow a model in depth, with new blocks whose last norm has weight one, as timm makes them."""
    large = grow(model, to=to, seed=seed)
    for name in family_of(model).growth(model, large).silent:
        if name.endswith("weight"):
            nn.init.ones_(large.get_parameter(name))
    return large


Weights = dict[str, torch.Tensor]


def masks_at_half(model: Model, before: Weights | None = None) -> None:
    """Start the masks of all deformable convs at one half, as sigmoid(0) does in the paper and in mmcv."""
    for layer in model.modules():
        if isinstance(layer, DeformConv2d):
            *_, masks = layer.conv_offset.bias.chunk(3)  # beside the offsets across and down
            nn.init.constant_(masks, torch.logit(torch.tensor(0.25)).item())  # ours are 2 * sigmoid


def _gates_at_half(model: Model, before: Weights) -> None:
    """Initialise timm's attention layers as timm does: gates are sigmoids, near one half."""
    for attention in (module for module in model.modules() if isinstance(module, Attention)):
        for module in attention.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            if isinstance(getattr(module, "gate", None), NeutralGate):
                module.gate = nn.Sigmoid()


def _norms_at_one(model: Model, before: Weights) -> None:
    """Initialise the batch norms of branches as torch does: weight one, bias zero."""
    for branch in model.modules():
        if isinstance(branch, Branch):
            branch.norm.reset_parameters()


def _new_kernels(model: Model, before: Weights) -> None:
    """Initialise the larger kernels as torch does; the smaller ones are lost."""
    for name, conv in depthwise_convs(model):
        if conv.weight.shape != before[name].shape:
            conv.reset_parameters()


def _repeated_channels(model: Model, before: Weights) -> None:
    """Repeat and rescale the weights of the first conv, as timm does for other numbers of channels."""
    name, conv = first_conv(model)
    with torch.no_grad():
        conv.weight.copy_(adapt_input_conv(conv.weight.shape[1], before[name]))


USUAL: dict[str, Callable[[Model, Weights], None]] = {
    **dict.fromkeys(("eca", "se", "cbam", "gca"), _gates_at_half),
    **dict.fromkeys(("rep", "dilated_reparam"), _norms_at_one),
    "dcn": masks_at_half,
    "kernel": _new_kernels,
    "in_chans": _repeated_channels,
}
"""By edit: sets its tensors, given the weights of the convs before it."""
