"""Load pretrained weights into a model: missing, unknown and misshaped keys are errors; data is not copied if possible.

A checkpoint fits by the rule of the first k edits (`edits/lineage.py`). If all tensors come from a file, the model is
built on the device `meta` and the tensors are assigned to it; they are read once and not copied.
"""

import sys
from collections.abc import Callable
from typing import Any

from timm.models import load_pretrained as timm_load_pretrained
from torch import Tensor

from .._types import Model
from ..edits import Edit, apply_edits
from ..edits.lineage import mismatch, same_shapes
from ..errors import WeightsError
from ..families import family_of
from .empty import WithoutValues

__all__ = ["Recipe", "load_pretrained"]

Make = Callable[..., Model]


class Recipe:
    """Makes a model: timm's entry function for the base, then the edits."""

    def __init__(self, entry: Make, edits: tuple[Edit, ...]) -> None:
        self.entry, self.edits = entry, edits

    def __call__(self, **kwargs: Any) -> Model:
        """Make the model; `kwargs` are those of timm's entry function."""
        with WithoutValues():
            model = self.entry(pretrained=False, **kwargs)
            family_of(model).repair(model)
            return apply_edits(model, self.edits)

    def in_timms_names(self, state_dict: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
        """The checkpoint after timm's `checkpoint_filter_fn` of the base, for weights published under other names."""
        module = vars(sys.modules[self.entry.__module__])
        convert = module.get("checkpoint_filter_fn") or module.get("_filter_fn")
        if convert is None:
            return state_dict
        return convert(state_dict, model) if convert.__code__.co_argcount > 1 else convert(state_dict)


def load_pretrained(
    make: Make, recipe: Recipe, state_dict: dict[str, Tensor], cfg: dict[str, Any], asked: dict[str, Any], device: Any
) -> Model:
    """Make a model with the tensors of a checkpoint.

    Args:
        make: Makes the model; takes `device`, `num_classes` and `in_chans`.
        recipe: The recipe of the model.
        state_dict: The checkpoint; its tensors become those of the model where dtype and device agree.
        cfg: timm's config of the checkpoint.
        asked: Arguments of the model; with `num_classes=0` the checkpoint may have any classifier or none.
        device: Device of the model; None for torch's default.

    Returns:
        The model.

    Raises:
        WeightsError: Keys are missing, unknown or misshaped; the message names them. Nothing was loaded.
    """
    classes, channels = cfg.get("num_classes") or 0, (cfg.get("input_size") or (3,))[0]
    offset = cfg.get("label_offset") or 0
    wanted = asked.get("num_classes", classes)
    held = {"num_classes": classes + offset if wanted == classes else 0, "in_chans": channels}
    if held == {"num_classes": wanted, "in_chans": asked.get("in_chans", channels)}:
        model = make(device="meta")
        if _assigned(model, _fitted(recipe, model, model, state_dict), device):
            return model
    return _copied(make, recipe, state_dict, cfg, held, device)


def _copied(
    make: Make, recipe: Recipe, state_dict: dict[str, Tensor], cfg: dict[str, Any], held: dict[str, int], device: Any
) -> Model:
    """The model with timm's initialisation, into which the tensors are copied; used for a new classifier."""
    model = make(device=device)

    def fit(state_dict: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
        return _fitted(recipe, model, make(device="meta", **held), state_dict)

    source = {**cfg, "state_dict": state_dict, "source": ""}
    timm_load_pretrained(model, source, num_classes=model.num_classes, in_chans=held["in_chans"], filter_fn=fit)
    return model


def _fitted(recipe: Recipe, model: Model, origin: Model, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint with the keys of `origin`: base tensors bit-identical, tensors of missing edits the identity."""
    state_dict = recipe.in_timms_names(state_dict, model)
    if model.pretrained_cfg.get("tag") == "fcmae":  # published without the norm of the head
        state_dict = {**{k: v for k, v in model.state_dict().items() if k.startswith("head.")}, **state_dict}
    if origin.num_classes == 0:
        heads = _classifiers(model)
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith(heads)}
    expected = origin.state_dict()
    if same_shapes(state_dict, expected):
        return state_dict
    try:
        if not origin.edits:
            raise ValueError(mismatch(state_dict, expected))
        return origin.lineage.fitted(state_dict, origin.num_classes)
    except ValueError as error:
        name = model.pretrained_cfg.get("architecture", type(model).__name__)
        raise WeightsError(f"these weights do not fit {name}, nothing was loaded: {error}") from error


def _classifiers(model: Model) -> tuple[str, ...]:
    """First parts of the keys of the classifiers."""
    names = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _assigned(model: Model, state_dict: dict[str, Tensor], device: Any) -> bool:
    """Assign tensors to a model on `meta`, converted to its dtypes; returns whether all tensors then have data."""
    if any(value.is_meta for value in state_dict.values()):
        return False
    wanted = model.state_dict()
    given = {key: value.to(device=device or "cpu", dtype=wanted[key].dtype) for key, value in state_dict.items()}
    model.load_state_dict(given, strict=True, assign=True)
    return not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
