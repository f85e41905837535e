"""A backbone as a folder that `timm.create_model("local-dir:...")` reads: weights, config, fingerprint and card."""

import json
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models._hub import save_config_for_hf

from .._types import Model
from .._version import __version__
from ..edits import parse
from ..edits.in_chans import InChans
from ..fingerprint import Fingerprint, compare, fingerprint, unwrap
from ..norm_layer import is_frozen
from ..registry import BUILT_IN, HINT, VARIANTS, WEIGHTS
from ..weights import write_safetensors
from .card import render_card

__all__ = ["CARD", "CONFIG", "FILES", "FINGERPRINT", "Identity", "check_folder", "identify", "save"]

CONFIG, FINGERPRINT, CARD = "config.json", "fingerprint.safetensors", "README.md"
FILES = (WEIGHTS, CONFIG, FINGERPRINT, CARD)
_WRAPPER_ARGS = ("features_only", "out_indices", "feature_cls", "feature_cfg")


@dataclass(frozen=True)
class Identity:
    """What a model is, in names that another machine knows."""

    architecture: str
    """The name to create it by; one that this package or timm registers."""
    base: str
    tag: str | None
    edits: tuple[str, ...]
    """All edits, those of the architecture's own included."""
    extra: tuple[str, ...]
    """The edits to pass as `edits=`."""


def identify(model: Model) -> Identity:
    """Find the name and the edits by which a full model can be created anew.

    Raises:
        ValueError: The model is edited and its base has no `ext_` name in this package.
    """
    name, tag = model.pretrained_cfg["architecture"], model.pretrained_cfg.get("tag")
    edits = tuple(getattr(model, "edits", ()))
    variant = VARIANTS.get(name)
    base = variant.base if variant else name
    if variant is None and not edits:
        return Identity(name, base, tag, (), ())
    presets = {item: tuple(map(str, parse(VARIANTS[item].edits))) for item in BUILT_IN if VARIANTS[item].base == base}
    fitting = [item for item, preset in presets.items() if edits[: len(preset)] == preset]
    if not fitting:
        known = [f"{item} ({', '.join(preset) or 'no edits'})" for item, preset in sorted(presets.items())]
        raise ValueError(
            f"{base} with the edits {', '.join(edits) or '(none)'} has no name in timm-backbones-ext that others could "
            f"create it by; names for this base, with the edits that come first: {'; '.join(known) or 'none'}"
        )
    if name not in fitting:  # a user's own name, a timm model edited in place, or a variant whose edits are merged
        name = min(fitting, key=lambda item: (len(presets[item]), item))
    return Identity(name, base, tag, edits, edits[len(presets[name]) :])


def save(
    model: Model,
    folder: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    card: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a backbone as safetensors, config, fingerprint and model card.

    Args:
        model: A timm model or an `ext_*` one; `features_only` ones are saved as the full model without classifier.
        folder: Made if it does not exist. All files appear, or none.
        label_names: Names of the classes, one per output.
        card: Fields that replace those of the card's metadata: `license`, `datasets`, `language`, `tags`, ...
        overwrite: Replace the files of an earlier save.

    Returns:
        The folder.

    Raises:
        ValueError: The model cannot be created anew from names, or the labels are not one per class.
        FileExistsError: The folder holds a saved model and `overwrite` is false.
        OSError: The folder cannot be written to.
    """
    folder, full = Path(folder), unwrap(model)
    if label_names is not None and len(label_names) != full.num_classes:
        raise ValueError(f"expected {full.num_classes} label names, one per class; got {len(label_names)}")
    present = [name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise FileExistsError(f"{folder} holds {', '.join(present)} already; choose another folder or overwrite=True")
    identity = identify(full)
    with _all_or_nothing(folder) as draft:
        state = {key: value.detach().cpu().contiguous() for key, value in full.state_dict().items()}
        write_safetensors(state, draft / WEIGHTS, _metadata(identity))
        config = _config(full, identity, getattr(model, "_model_args", {}), label_names, draft / CONFIG)
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        fingerprint(full).save(draft / FINGERPRINT)
        (draft / CARD).write_text(render_card(full, identity, card or {}), encoding="utf-8")
    return folder


def _metadata(identity: Identity) -> dict[str, str]:
    return {
        "format": "pt",
        "timm_backbones_ext": __version__,
        "timm": timm.__version__,
        "base": identity.base + (f".{identity.tag}" if identity.tag else ""),
        "edits": json.dumps(identity.edits),
    }


def _config(
    model: Model, identity: Identity, created_with: Mapping[str, Any], labels: Sequence[str] | None, draft: Path
) -> dict[str, Any]:
    """timm's own config for the model, with what is needed to create it here and to say what is missing elsewhere."""
    args = {**created_with, **getattr(model, "_model_args", {})}
    if is_frozen(args.get("norm_layer")):  # which is saved as the edit that it became
        del args["norm_layer"]
    model._model_args = {key: value for key, value in args.items() if key not in (*_WRAPPER_ARGS, "edits")}
    model_config: dict[str, Any] = {"label_names": list(labels)} if labels is not None else {}
    save_config_for_hf(model, str(draft), model_config=model_config, data_config=_normalisation(model))
    config = json.loads(draft.read_text(encoding="utf-8"))
    config.setdefault("model_args", {}).pop("num_classes", None)  # said at the top; transformers refuses it twice
    if identity.extra:
        config["model_args"]["edits"] = list(identity.extra)
    if identity.architecture in BUILT_IN:
        config["architecture"] = f"{identity.architecture}.{HINT}"
        config["timm_backbones_ext"] = {"version": __version__, "base": identity.base, "edits": list(identity.edits)}
    return config


def _normalisation(model: Model) -> dict[str, Any]:
    """Mean and std, one per channel: of channels that an edit added 0 and 1, of others timm's rule, the average."""
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    new = model.in_chans - len(mean)
    if new > 0 and any(isinstance(item, InChans) for item in parse(getattr(model, "edits", ()))):
        mean, std = (*mean, *[0.0] * new), (*std, *[1.0] * new)
    elif new:
        mean, std = ([sum(values) / len(values)] * model.in_chans for values in (mean, std))
    return {"mean": tuple(mean), "std": tuple(std)}


@contextmanager
def _all_or_nothing(folder: Path) -> Generator[Path]:
    """A draft folder whose files move to `folder` once they are all written."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".draft-")
    except OSError as error:
        raise type(error)(f"cannot write to {folder} ({error.strerror}); choose another folder") from error
    try:
        with scratch as draft:
            yield Path(draft)
            for file in sorted(Path(draft).iterdir()):
                os.replace(file, folder / file.name)
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


def check_folder(folder: Path) -> Any:
    """Create the model in a folder and compare what it computes with the fingerprint beside it.

    Returns:
        The report of the comparison.

    Raises:
        FileNotFoundError: The folder has no fingerprint.
        WeightsError: The weights are not those of the model that the config names.
    """
    path = folder / FINGERPRINT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {FINGERPRINT}, so there is nothing to verify it against")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return compare(Fingerprint.load(path), fingerprint(model))
