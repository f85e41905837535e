"""Parameter groups for an optimizer: timm's, with the learning rates that an edit's layers ask for."""

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from ._types import Model

__all__ = ["param_groups"]


def param_groups(
    model: Model, lr: float, weight_decay: float = 0.05, *, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, each with its own `lr` and `weight_decay`.

    Biases, norms and what the model itself exempts have no weight decay. Offsets of deformable convs learn at a tenth
    of the rate, as in mmcv's `dcn_offset_lr_mult` and Deformable DETR (https://arxiv.org/abs/2010.04159, section 5).

    Args:
        model: A full model or a feature wrapper of this package.
        lr: Learning rate of the last layers.
        weight_decay: That of the weights.
        layer_decay: Factor on the learning rate per layer towards the input, such as 0.75; none by default.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    else:
        groups = param_groups_layer_decay(model, weight_decay, exempt, layer_decay=layer_decay)
    slow = _slow(model)
    split: dict[tuple[float, float], list[Any]] = {}
    for group in groups:
        for parameter in group["params"]:
            rate = lr * group.get("lr_scale", 1.0) * slow.get(parameter, 1.0)
            split.setdefault((rate, group["weight_decay"]), []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in split.items()]


def _slow(model: Model) -> dict[Any, float]:
    """Parameters whose layer asks for a factor on the learning rate."""
    asked = [(layer, *item) for layer in model.modules() for item in getattr(layer, "lr_scales", {}).items()]
    return {parameter: scale for layer, name, scale in asked for parameter in layer.get_submodule(name).parameters()}
