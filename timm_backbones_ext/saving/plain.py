"""Models in a form that can be saved: whole tensors on the CPU, and plain timm models."""

from dataclasses import replace
from typing import Any

import timm
from torch import Tensor
from torch.distributed.tensor import DTensor

from .._types import Model
from ..edits import parse_edits
from ..registry import ARCHITECTURES
from .identity import Identity

__all__ = ["as_plain_timm", "tensors", "whole"]


def tensors(model: Model) -> dict[str, Tensor]:
    """The state dict as CPU tensors that share no memory, which is what safetensors needs.

    Tied tensors become equal ones. Shards of FSDP or tensor parallelism are gathered; every rank has to call.
    """
    seen: set[int] = set()
    state = {}
    for key, value in model.state_dict().items():
        value = (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        state[key] = value.clone() if storage in seen else value
        seen.add(storage)
    return state


def whole(found: Identity) -> Identity:
    """The same model with whole tensors; a copy if it is sharded over ranks. Every rank must call this function."""
    if not found.sharded:
        return found
    edits = {"edits": list(found.extra)} if found.extra else {}
    return replace(found, model=_twin(found, found.architecture, **edits), sharded=False)


def as_plain_timm(found: Identity) -> Identity:
    """The model as a plain timm model, for people without this package.

    Raises:
        ValueError: The model has unmerged edits other than `in_chans`, or timm lacks its architecture.
    """
    if edits := [edit for edit in parse_edits(found.edits) if edit.name != "in_chans"]:
        mergeable = [str(edit) for edit in edits if edit.merges()]
        hint = f"; tbx.merge(model) removes {', '.join(mergeable)}" if mergeable else ""
        raise ValueError(
            f"plain timm has no edits, and this model has {', '.join(map(str, edits))}{hint}. "
            "Without the conversion to plain timm it can be saved and pushed as it is"
        )
    if found.base in ARCHITECTURES:
        raise ValueError(f"timm has no architecture {found.base!r}; save and push it as it is")
    return replace(found, model=_twin(found, found.base), architecture=found.base)


def _twin(found: Identity, name: str, **kwargs: Any) -> Model:
    """A new model with another name and the same tensors."""
    model = found.model
    args: dict[str, Any] = {"in_chans": model.in_chans, **found.args, **kwargs, "num_classes": model.num_classes}
    if any(edit.startswith("in_chans") for edit in kwargs.get("edits", ())):
        del args["in_chans"]
    twin: Model = timm.create_model(name, **args)
    twin.load_state_dict(tensors(model), strict=True, assign=True)
    twin.pretrained_cfg = twin.default_cfg = {**model.pretrained_cfg, "architecture": name}
    return twin.train(model.training)
