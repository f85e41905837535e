"""Models that can be saved as they are: whole tensors, on this machine, and stock timm where that is asked for."""

from typing import Any

import timm
from torch import Tensor
from torch.distributed.tensor import DTensor

from .._types import Model
from ..edits import parse_edits
from ..norm_layer import is_frozen
from ..registry import ARCHITECTURES, VARIANTS

__all__ = ["as_plain_timm", "created_with", "is_sharded", "tensors", "whole"]

RUNTIME = ("features_only", "out_indices", "feature_cls", "feature_cfg", "edits", "device", "dtype")
"""Arguments of creation that say how a model is used, not what it is; edits are saved in their own way."""


def created_with(model: Model) -> dict[str, Any]:
    """timm's arguments by which a model was created; frozen batch norms are saved as the edit that they became."""
    args = {key: value for key, value in getattr(model, "_model_args", {}).items() if key not in RUNTIME}
    return {key: value for key, value in args.items() if key != "norm_layer" or not is_frozen(value)}


def tensors(model: Model) -> dict[str, Tensor]:
    """The state dict as tensors on the CPU that share no memory, as safetensors wants them.

    Shards of FSDP or of tensor parallelism are put together, which every rank has to take part in; tied tensors become
    equal ones.
    """
    seen: set[int] = set()
    state = {}
    for key, value in model.state_dict().items():
        value = (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        state[key] = value.clone() if storage in seen else value
        seen.add(storage)
    return state


def is_sharded(model: Model) -> bool:
    """Whether tensors are spread over ranks, by FSDP or tensor parallelism."""
    return any(isinstance(value, DTensor) for value in model.state_dict().values())


def whole(model: Model) -> Model:
    """The model itself, or its equal with whole tensors if it is sharded over ranks."""
    if not is_sharded(model):
        return model
    edits = list(getattr(model, "edits", ()))
    variant = VARIANTS.get(model.pretrained_cfg["architecture"])
    extra = edits[len(parse_edits(variant.edits)) :] if variant else edits
    return _twin(model, model.pretrained_cfg["architecture"], **({"edits": extra} if extra else {}))


def as_plain_timm(model: Model) -> Model:
    """The model as stock timm makes it, for people without this package.

    Raises:
        ValueError: It has edits that are not merged, or timm lacks its architecture.
    """
    if edits := getattr(model, "edits", ()):
        mergeable = [str(edit) for edit in parse_edits(edits) if edit.merges()]
        hint = f"; tbx.merge(model) removes {', '.join(mergeable)}" if mergeable else ""
        raise ValueError(
            f"plain timm has no edits, and this model has {', '.join(edits)}{hint}. Push it without as_timm"
        )
    name = model.pretrained_cfg["architecture"]
    if name in VARIANTS and VARIANTS[name].base in ARCHITECTURES:
        raise ValueError(f"timm has no architecture {VARIANTS[name].base!r}. Push it without as_timm")
    return _twin(model, VARIANTS[name].base if name in VARIANTS else name)


def _twin(model: Model, name: str, **kwargs: Any) -> Model:
    args = {"num_classes": model.num_classes, "in_chans": model.in_chans, **created_with(model), **kwargs}
    twin: Model = timm.create_model(name, **args)
    twin.load_state_dict(tensors(model), strict=True)
    twin.pretrained_cfg = twin.default_cfg = {**model.pretrained_cfg, "architecture": name}
    return twin.train(model.training)
