"""Frozen bases, and timm's parameter groups with the learning rates that edits ask for."""

from typing import Any, TypeVar

from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from ._types import Model
from .edits.lineage import Lineage
from .layers import FROZEN
from .weights.recognise import classifiers

__all__ = ["freeze_base", "param_groups"]

ModelT = TypeVar("ModelT", bound=Model)


def freeze_base(model: ModelT, *, norms: bool, classifier: bool = True) -> ModelT:
    """Freeze, in place, all tensors of the base; tensors that edits added stay trainable.

    No gradient of a frozen tensor is computed or stored. A base tensor that an edit made larger stays trainable as a
    whole. With `lora`, this is the training of the paper (https://arxiv.org/abs/2106.09685).

    Args:
        model: A full model, edited or not, or a `features_only` model of this package.
        norms: Train the weights and biases of norms and update running statistics. If false, frozen batch norms with
            the same keys replace batch norms; `train()` does not change them.
        classifier: Train the classifier.

    Raises:
        ValueError: No tensor would be trainable, or a batch norm cannot be frozen; the model is then unchanged.
    """
    full = model.full_model() if hasattr(model, "full_model") else model
    name_of = getattr(model, "full_name", str)
    old = {key: value.shape for key, value in Lineage.of(full).base.state_dict().items()}
    heads = classifiers(full)
    learns: dict[Any, bool] = {}
    still: dict[str, Any] = {}
    for place, module in model.named_modules():
        name, norm = name_of(place), norms and "Norm" in type(module).__name__
        for key, parameter in module.named_parameters(name, recurse=False):
            learns[parameter] = classifier if key.startswith(heads) else norm or old.get(key) != parameter.shape
        if not norms and f"{name}.running_mean" in old and type(module) not in FROZEN.values():
            still[place] = module
    if not any(learns.values()):
        raise ValueError("freeze_base: nothing would learn; add an edit, tbx.edit(model, 'lora'), or keep a classifier")
    if strange := [place for place, module in still.items() if type(module) not in FROZEN]:
        raise ValueError(f"freeze_base: {strange[0]} is a batch norm that cannot be frozen; say norms=True")
    for parameter, learning in learns.items():
        parameter.requires_grad_(learning)
    for place, module in still.items():
        model.set_submodule(place, FROZEN[type(module)].replacing(module))
    return model


def param_groups(
    model: Model, lr: float, weight_decay: float = 0.05, *, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer, each with its own `lr` and `weight_decay`.

    Biases, norms and the names in the model's `no_weight_decay()` have no weight decay. Offsets of deformable convs
    have a tenth of the learning rate, as in mmcv's `dcn_offset_lr_mult` and Deformable DETR
    (https://arxiv.org/abs/2010.04159, section 5).

    timm's optimizer factory takes the groups: `timm.optim.create_optimizer_v2(groups, opt="adamw")`.

    Args:
        model: A full model, a feature wrapper of this package, or a detector that holds one.
        lr: Learning rate of the last layers.
        weight_decay: Weight decay of all other parameters.
        layer_decay: Factor on the learning rate per layer towards the input, such as 0.75; none by default. In a
            detector, neck and head have the rate `lr`, and the last layer of the backbone has `lr * layer_decay`.

    Returns:
        Parameter groups of the trainable parameters.

    Raises:
        ValueError: `layer_decay` is given, and the model contains no timm backbone.
    """
    groups = (
        _without_layers(model, weight_decay) if layer_decay is None else _by_layer(model, weight_decay, layer_decay)
    )
    slow = _slow(model)
    split: dict[tuple[float, float], list[Any]] = {}
    for group in groups:
        for parameter in group["params"]:
            rate = lr * group.get("lr_scale", 1.0) * slow.get(parameter, 1.0)
            split.setdefault((rate, group["weight_decay"]), []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in split.items()]


def _without_layers(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters: with and without weight decay."""
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)


def _by_layer(model: Model, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups by layer of the backbone in a model, then two for everything else."""
    backbones = [(name, module) for name, module in model.named_modules() if hasattr(module, "group_matcher")]
    if not backbones:
        raise ValueError(f"layer_decay: expected a model with a timm backbone in it; {type(model).__name__} has none")
    name, backbone = backbones[0]
    exempt = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(backbone, weight_decay, exempt, layer_decay=layer_decay)
    if not name:
        return groups
    inside = set(backbone.parameters())
    lower = [{**group, "lr_scale": group["lr_scale"] * layer_decay} for group in groups]
    others = _without_layers(model, weight_decay)
    return [*lower, *({**group, "params": [p for p in group["params"] if p not in inside]} for group in others)]


def _slow(model: Model) -> dict[Any, float]:
    """Parameter -> factor on its learning rate, for layers with `lr_scales`."""
    asked = [(layer, *item) for layer in model.modules() for item in getattr(layer, "lr_scales", {}).items()]
    return {parameter: scale for layer, name, scale in asked for parameter in layer.get_submodule(name).parameters()}
