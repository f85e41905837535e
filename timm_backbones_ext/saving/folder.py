"""A backbone as a folder that `timm.create_model("local-dir:...")` reads: weights, config, fingerprint and card."""

import json
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from torch.distributed import get_rank, is_initialized

from .._digest import sha256_of
from .._timm import save_config_for_hf
from .._types import Model
from .._version import __version__
from ..edits import parse_edits
from ..edits.in_chans import InChans
from ..errors import HubError
from ..fingerprints import Fingerprint, Report, compare, fingerprint, unwrap
from ..registry import BUILT_IN
from ..weights.files import (
    CARD,
    CONFIG,
    FILES,
    FINGERPRINT,
    HINT,
    PULLED,
    WEIGHTS,
    read_header,
    write_safetensors,
)
from .card import render_card
from .identity import Identity, identify
from .plain import as_plain_timm, created_with, tensors, whole

__all__ = ["check_folder", "load", "save", "saved_fingerprint", "write_card"]


def save(
    model: Model,
    folder: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    card: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    section: str = "",
    as_timm: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a backbone as safetensors, config, fingerprint and model card.

    Args:
        model: A timm model or an `ext_*` one; `features_only` ones are saved as the full model without classifier.
            Wrappers (DDP, DataParallel, torch.compile) are looked through. A model that is sharded over ranks is
            saved by rank 0; every rank has to call.
        folder: Made if it does not exist. All files appear, or none.
        label_names: Names of the classes, one per output.
        card: Fields that replace those of the card's metadata: `license`, `datasets`, `language`, `tags`, ...
        metrics: Results on the first of the card's `datasets`: `{"accuracy": 0.97}`; they become its `model-index`.
        section: Markdown for the card, after its usage.
        as_timm: Save a model without edits as the timm model that it is, for people without this package.
        overwrite: Replace the files of an earlier save.

    Returns:
        The folder.

    Raises:
        ValueError: The model cannot be created anew from names, the labels are not one per class, or the licence of
            the base does not allow the one that is asked for.
        FileExistsError: The folder holds a saved model and `overwrite` is false.
        OSError: The folder cannot be written to.
    """
    args = created_with(model)
    folder, full = Path(folder), whole(unwrap(model))
    full._model_args = {**args, **created_with(full)}
    full = as_plain_timm(full) if as_timm else full
    if label_names is not None and len(label_names) != full.num_classes:
        raise ValueError(f"expected {full.num_classes} label names, one per class; got {len(label_names)}")
    present = [name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise FileExistsError(f"{folder} holds {', '.join(present)} already; choose another folder or overwrite=True")
    identity = identify(full)
    if is_initialized() and get_rank() > 0:
        return folder
    with _all_or_nothing(folder) as draft:
        write_safetensors(tensors(full), draft / WEIGHTS, _metadata(identity))
        config = _config(full, identity, label_names, draft / CONFIG)
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        fingerprint(full).save(draft / FINGERPRINT)
        write_card(full, draft, card=card, metrics=metrics, section=section)
    return folder


def write_card(
    model: Model,
    folder: Path,
    *,
    card: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    section: str = "",
) -> None:
    """Write the model card for the files that are in a folder."""
    hashes = {name: sha256_of(folder / name) for name in PULLED if (folder / name).is_file()}
    text = render_card(model, identify(model), card or {}, metrics=metrics or {}, section=section, hashes=hashes)
    (folder / CARD).write_text(text, encoding="utf-8")


def _metadata(identity: Identity) -> dict[str, str]:
    return {
        "format": "pt",
        "timm_backbones_ext": __version__,
        "timm": timm.__version__,
        "base": identity.base + (f".{identity.tag}" if identity.tag else ""),
        "edits": json.dumps(identity.edits),
    }


def _config(model: Model, identity: Identity, labels: Sequence[str] | None, draft: Path) -> dict[str, Any]:
    """timm's own config for the model, with what is needed to create it here and to say what is missing elsewhere."""
    model_config: dict[str, Any] = {"label_names": list(labels)} if labels is not None else {}
    save_config_for_hf(model, str(draft), model_config=model_config, data_config=_normalisation(model))
    config = json.loads(draft.read_text(encoding="utf-8"))
    config.setdefault("model_args", {}).pop("num_classes", None)  # said at the top; transformers refuses it twice
    if any(isinstance(item, InChans) for item in parse_edits(identity.edits)):
        config["model_args"].pop("in_chans", None)  # the edit says it
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
    if new > 0 and any(isinstance(item, InChans) for item in parse_edits(getattr(model, "edits", ()))):
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


def check_folder(folder: Path) -> Report:
    """Create the model in a folder and compare what it computes with the fingerprint beside it.

    Returns:
        The report of the comparison.

    Raises:
        FileNotFoundError: The folder has no fingerprint.
        WeightsError: The weights are not those of the model that the config names.
    """
    return compare(saved_fingerprint(folder), fingerprint(load(folder)))


def saved_fingerprint(folder: Path) -> Fingerprint:
    """The fingerprint in a folder.

    Raises:
        FileNotFoundError: There is none.
        HubError: It is damaged, or of a newer format.
    """
    path = folder / FINGERPRINT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {FINGERPRINT}, so there is nothing to verify it against")
    try:
        return Fingerprint.load(path)
    except ValueError as error:
        raise HubError(str(error)) from error


def load(folder: Path) -> Model:
    """The model in a folder, with the dtypes of the file: timm makes it in float32."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    stored, now = read_header(folder / WEIGHTS), model.state_dict(keep_vars=True)
    for key in stored.keys() & now.keys():
        now[key].data = now[key].data.to(stored[key].dtype)
    return model
