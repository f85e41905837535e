"""LoRA adapters in the format of PEFT as the edit `lora`, and back.

https://huggingface.co/docs/peft/developer_guides/checkpoint: `adapter_model.safetensors` holds, for a layer NAME,
`base_model.model.NAME.lora_A.weight` and `lora_B.weight`. `adapter_config.json` scales B A by `lora_alpha / r`; here
the factor is multiplied into B.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._types import Model
from ..edits import edit, parse_edits
from ..edits.lineage import without_data
from ..edits.lora import TARGETS, Lora
from ..errors import WeightsError
from ..layers import low_rank_of
from .files import read_tensors, write_safetensors
from .recognise import classifiers

__all__ = ["load_adapter", "save_adapter"]

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
PARTS = {"lora_A": "down", "lora_B": "up"}
"""PEFT's names and ours."""
NEUTRAL = ("lora", "frozen_bn", "split_norm_act", "static_pad")
"""Edits that an adapter may have besides `lora`, since they add no tensors to timm's model."""
OTHERS = ("use_dora", "lora_bias", "fan_in_fan_out", "alpha_pattern", "rank_pattern", "use_qalora", "layer_replication")
"""Entries of the config that change the computation W x + B A x."""


class _Adapter(NamedTuple):
    rank: int
    scale: float
    layers: dict[str, dict[str, Tensor]]
    """Name of a module -> its "down" and "up"."""
    classifier: dict[str, Tensor]


def load_adapter(model: Model, folder: str | Path) -> Model:
    """Load an adapter that PEFT has trained into a model, in place, as the edit `lora`.

    Args:
        model: A full model with the base's weights; without the edit `lora`, or with `lora` on the same layers.
        folder: `adapter_model.safetensors` and `adapter_config.json`, as PEFT's `save_pretrained` writes them.

    Returns:
        The same model. The classifier is the adapter's, if it has one.

    Raises:
        WeightsError: The adapter is damaged, is not a LoRA adapter, or does not fit; the model is unchanged.
        FileNotFoundError: The folder lacks one of the files.
    """
    adapter = _read(Path(folder), classifiers(model))
    twin = without_data(model)
    item = _edit_for(twin, adapter)
    try:
        twin = twin if item is None else edit(twin, item)
        _require_fit(adapter, twin)
    except ValueError as error:
        raise WeightsError(f"the adapter does not fit, nothing was loaded: {error}") from error
    if item is not None:
        edit(model, item)
    with torch.no_grad():
        for name, parts in adapter.layers.items():
            branch = _branch(model, name)
            branch.down.weight.copy_(parts["down"])
            branch.up.weight.copy_(parts["up"].double() * adapter.scale)
        for key, value in adapter.classifier.items():
            model.get_parameter(key).copy_(value)
    return model


def save_adapter(model: Model, folder: str | Path, *, classifier: bool = True, base: str | None = None) -> Path:
    """Write the edit `lora` of a model as an adapter that PEFT loads into timm's model.

    PEFT's model computes the same if all other tensors equal the base's, as after training with
    `freeze_base(model, norms=False)`.

    Args:
        model: A full model with the edit `lora`, and no other edit that adds tensors.
        folder: Folder to write to; made if it does not exist.
        classifier: Write the classifier too, which PEFT calls `modules_to_save`.
        base: Written as `base_model_name_or_path`.

    Returns:
        The folder.

    Raises:
        ValueError: The model has no edit `lora`, has edits that PEFT lacks, or has it on grouped or dilated convs.
    """
    edits = parse_edits(getattr(model, "edits", ()))
    if foreign := [str(item) for item in edits if item.name not in NEUTRAL]:
        raise ValueError(f"PEFT's model is timm's, which has no {foreign[0]}; save the model by tbx.save")
    layers = {name: layer for name, layer in model.named_modules() if low_rank_of(layer) is not None}
    if not layers:
        raise ValueError("the model has no edit lora, so there is no adapter to write")
    for name, layer in layers.items():
        if getattr(layer, "groups", 1) > 1 or getattr(layer, "dilation", (1, 1)) != (1, 1):
            raise ValueError(f"{name} is grouped or dilated, for which PEFT has another A; save the model by tbx.save")
    tensors = {
        f"{PREFIX}{name}.{theirs}.weight": getattr(_branch(model, name), ours).weight.detach().cpu().contiguous()
        for name in layers
        for theirs, ours in PARTS.items()
    }
    heads = {key: value for key, value in model.state_dict().items() if key.startswith(classifiers(model))}
    kept = {key: value for key, value in heads.items() if classifier and not key.startswith(tuple(layers))}
    tensors |= {PREFIX + key: value.cpu().contiguous() for key, value in kept.items()}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, target / TENSORS, {"format": "pt"})
    rank = next(item.rank for item in edits if isinstance(item, Lora))
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(layers),
        "modules_to_save": sorted({key.rpartition(".")[0] for key in kept}) or None,
        "bias": "none",
        "inference_mode": True,
    }
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return target


def _read(folder: Path, heads: tuple[str, ...]) -> _Adapter:
    for name in (TENSORS, CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; PEFT's save_pretrained writes it")
    rank, scale = _settings(folder / CONFIG)
    layers: dict[str, dict[str, Tensor]] = {}
    classifier: dict[str, Tensor] = {}
    for key, value in read_tensors(folder / TENSORS).items():
        name, _, part = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if part in PARTS:
            layers.setdefault(name, {})[PARTS[part]] = value
        elif key.removeprefix(PREFIX).startswith(heads):
            classifier[key.removeprefix(PREFIX)] = value
        else:
            raise WeightsError(f"expected tensors of LoRA and of the classifier in {folder / TENSORS}; got {key}")
    if half := [name for name, parts in layers.items() if len(parts) < len(PARTS)]:
        raise WeightsError(f"{folder / TENSORS} has lora_A or lora_B of {half[0]}; expected both")
    return _Adapter(rank, scale, layers, classifier)


def _settings(path: Path) -> tuple[int, float]:
    """Rank and scale in an adapter's config."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha, kind = config["r"], config["lora_alpha"], config["peft_type"]
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise WeightsError(f"{path} is not the config of an adapter ({type(error).__name__}: {error})") from error
    other = next((name for name in OTHERS if config.get(name)), None)
    if kind != "LORA" or config.get("bias", "none") != "none" or other:
        what = other or ("bias" if kind == "LORA" else kind)
        raise WeightsError(f"expected a LoRA adapter that adds B A x and nothing else; {path} says {what}")
    return rank, scale


def _edit_for(model: Model, adapter: _Adapter) -> Lora | None:
    """The edit that adds branches to the adapter's layers; None if the model already has them."""
    if any(isinstance(item, Lora) for item in parse_edits(getattr(model, "edits", ()))):
        return None
    for kind in TARGETS:
        if {name for name, _ in Lora(adapter.rank, targets=kind).layers(model)} == adapter.layers.keys():
            return Lora(adapter.rank, targets=kind)
    return Lora(adapter.rank, targets=tuple(sorted(adapter.layers)))


def _require_fit(adapter: _Adapter, model: Model) -> None:
    """Require that names and shapes are those of the branches and the classifier of a model."""
    expected = {name for name, layer in model.named_modules() if low_rank_of(layer) is not None}
    if differing := sorted(expected ^ adapter.layers.keys()):
        raise ValueError(f"the adapter's layers are not the model's: {', '.join(differing[:6])}")
    pairs = {
        f"{n}.{p}": (v, getattr(_branch(model, n), p).weight) for n, ps in adapter.layers.items() for p, v in ps.items()
    }
    pairs |= {key: (value, model.state_dict().get(key)) for key, value in adapter.classifier.items()}
    for key, (value, like) in pairs.items():
        if like is None or value.shape != like.shape:
            wanted = "no such tensor" if like is None else tuple(like.shape)
            raise ValueError(f"{key} is {tuple(value.shape)}; the model has {wanted}")


def _branch(model: Model, name: str) -> Any:
    """The branch of a layer that has one."""
    return low_rank_of(model.get_submodule(name))
