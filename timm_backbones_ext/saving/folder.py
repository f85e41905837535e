"""A backbone as a folder that `timm.create_model("local-dir:...")` reads: weights, config, fingerprint and card."""

import copy
import json
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch.distributed import get_rank, is_initialized

from .._digest import sha256_of
from .._timm import save_config_for_hf
from .._types import Model
from .._version import __version__
from ..edits import parse_edits
from ..edits.in_chans import InChans
from ..errors import HubError, WeightsError
from ..fingerprints import Fingerprint, Report, compare, fingerprint
from ..registry import BUILT_IN
from ..weights.delta import Delta, delta_of
from ..weights.files import CARD, CONFIG, FILES, FINGERPRINT, HINT, PULLED, WEIGHTS, write_safetensors
from ..weights.source import folder_delta, whole_tensors
from .card import DeltaFacts, card_fields, card_section, render_card
from .difference import difference_of, with_own_name
from .identity import Identity, identify
from .manifest import check_files, write_manifest
from .plain import as_plain_timm, tensors, whole

__all__ = [
    "card_texts",
    "check_folder",
    "load",
    "normalisation",
    "require_one_form",
    "save",
    "saved_fingerprint",
    "write_card",
    "write_folder",
    "write_labels",
    "write_whole",
]


def save(
    model: Model,
    folder: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    card: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    section: str = "",
    as_timm: bool = False,
    delta: bool = False,
    base: str | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a backbone as safetensors, config, fingerprint, model card and the sha256 of each of these files.

    Args:
        model: A timm model or an `ext_*` one; it is not changed. A `features_only` model is saved as the full model
            without classifier, and a model inside DDP, DataParallel or torch.compile as the inner model. Rank 0 saves a
            model that is sharded over ranks; every rank must call this function.
        folder: Folder to write to; made if it does not exist. Either all files appear or none.
        label_names: Names of the classes, one per output.
        card: Fields that replace those of the card's metadata: `license`, `datasets`, `language`, `tags`, ...
        metrics: Results on the first of the card's `datasets`: `{"accuracy": 0.97}`; they become its `model-index`.
        section: Markdown for the card, after its usage.
        as_timm: Save a model without edits as a timm model, for people without this package.
        delta: Write only the tensors that are not bit-identical to those of the base, a checkpoint on the Hub that
            the config then names by commit and sha256. The model is loaded as one that was saved whole; the base is
            fetched once, for all that differ from it.
        base: Hub id of the base, "owner/name" or "owner/name@revision"; by default the repo that the weights came
            from, else that of the model's tag.
        token: Access token for the base; that of `hf auth login` by default.
        overwrite: Replace the files of an earlier save.

    Returns:
        The folder.

    Raises:
        ValueError: No registered name creates the model, the labels are not one per class, the licence of the base
            does not allow the licence in `card`, or the base is not the file that the weights came from or has no
            tensor in common with the model.
        HubError: The base cannot be fetched.
        FileExistsError: The folder holds a saved model and `overwrite` is false.
        OSError: The folder cannot be written to.
    """
    texts: dict[str, Any] = {"card": card, "metrics": metrics, "section": section}
    options: dict[str, Any] = {"label_names": label_names, "as_timm": as_timm, "overwrite": overwrite}
    of_base: dict[str, Any] = {"delta": delta, "base": base, "token": token}
    return write_folder(identify(model), Path(folder), **options, **of_base, **texts)


def write_folder(
    found: Identity,
    folder: Path,
    *,
    label_names: Sequence[str] | None = None,
    as_timm: bool = False,
    delta: bool = False,
    base: str | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
    **texts: Any,
) -> Path:
    """As `save`, for a model whose identity is known; `texts` are the arguments of `write_card`."""
    require_one_form(as_timm=as_timm, delta=delta, base=base)
    found = whole(found)
    found = as_plain_timm(found) if as_timm else with_own_name(found) if delta else found
    _require_one_per_class(label_names, found.model.num_classes)
    present = [name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise FileExistsError(f"{folder} holds {', '.join(present)} already; choose another folder, or overwrite it")
    if is_initialized() and get_rank() > 0:
        return folder
    with _all_or_nothing(folder) as draft:
        state = tensors(found.model)
        made = difference_of(found, state, base, token) if delta else None
        write_safetensors(made.tensors if made else state, draft / WEIGHTS, _metadata(found))
        _write_json(draft / CONFIG, _config(found, label_names, draft / CONFIG, made.delta if made else None))
        fingerprint(found.model).save(draft / FINGERPRINT)
        write_card(found, draft, **texts)
        write_manifest(draft)
    return folder


def require_one_form(*, as_timm: bool, delta: bool, base: str | None) -> None:
    """Check that the options do not exclude each other.

    Raises:
        ValueError: Both `as_timm` and `delta` are true, or `base` is given without `delta`.
    """
    if as_timm and delta:
        raise ValueError("plain timm reads no differences: leave out delta, or the conversion to plain timm")
    if base is not None and not delta:
        raise ValueError(f"base={base!r} is for a difference: say delta=True too")


def write_card(
    found: Identity,
    folder: Path,
    *,
    card: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    section: str = "",
) -> None:
    """Write the model card for the files that are in a folder."""
    hashes = {name: sha256_of(folder / name) for name in PULLED if (folder / name).is_file()}
    delta = delta_of(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    sizes = (folder / WEIGHTS).stat().st_size, sum(value.nbytes for value in found.model.state_dict().values())
    about = DeltaFacts(delta.base, *sizes) if delta else None
    text = render_card(found, card or {}, metrics=metrics or {}, section=section, hashes=hashes, delta=about)
    (folder / CARD).write_text(text, encoding="utf-8")


def card_texts(folder: Path) -> dict[str, Any]:
    """The arguments of `write_card` that gave the card in a folder.

    Raises:
        ValueError: The metadata of the card cannot be read.
    """
    text = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    fields, results = card_fields(text)
    return {"card": fields, "metrics": results, "section": card_section(text)}


def write_whole(source: Path, folder: Path, cache_dir: str | Path | None = None) -> Path:
    """Write a copy of a saved model with all its tensors, also those that only its base has.

    Raises:
        FileExistsError: `folder` holds a saved model.
        HubError: The base cannot be fetched.
        WeightsError: Base and difference do not give the tensors that were saved.
    """
    labels = json.loads((source / CONFIG).read_text(encoding="utf-8")).get("label_names")
    return write_folder(identify(load(source, cache_dir)), folder, label_names=labels, **card_texts(source))


def write_labels(folder: Path, label_names: Sequence[str]) -> None:
    """Replace the label names in the config of a folder.

    Raises:
        ValueError: They are not one per class.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _require_one_per_class(label_names, config.get("num_classes"))
    _write_json(folder / CONFIG, {**config, "label_names": list(label_names)})


def _require_one_per_class(label_names: Sequence[str] | None, classes: Any) -> None:
    if label_names is not None and len(label_names) != classes:
        raise ValueError(f"expected {classes} label names, one per class; got {len(label_names)}")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _metadata(found: Identity) -> dict[str, str]:
    return {
        "format": "pt",
        "timm_backbones_ext": __version__,
        "timm": timm.__version__,
        "base": found.base + (f".{found.tag}" if found.tag else ""),
        "edits": json.dumps(found.edits),
    }


def _config(found: Identity, labels: Sequence[str] | None, draft: Path, delta: Delta | None) -> dict[str, Any]:
    """timm's config of the model, with the edits to create it and a hint for machines without this package."""
    shown = copy.copy(found.model)  # timm reads `_model_args` from the object; the caller's object is not changed
    shown._model_args = dict(found.args)
    model_config: dict[str, Any] = {"label_names": list(labels)} if labels is not None else {}
    save_config_for_hf(shown, str(draft), model_config=model_config, data_config=normalisation(found.model))
    config = json.loads(draft.read_text(encoding="utf-8"))
    config["architecture"] = found.architecture
    config.setdefault("model_args", {}).pop("num_classes", None)  # stands at the top; transformers refuses it twice
    if any(isinstance(item, InChans) for item in parse_edits(found.edits)):
        config["model_args"].pop("in_chans", None)  # the edit says it
    if found.extra:
        config["model_args"]["edits"] = list(found.extra)
    if found.architecture in BUILT_IN:
        config["architecture"] = f"{found.architecture}.{HINT}"
        config["timm_backbones_ext"] = {"version": __version__, "base": found.base, "edits": list(found.edits)}
    if delta:
        config["timm_backbones_ext"]["delta"] = delta.as_config()
    return config


def normalisation(model: Model) -> dict[str, Any]:
    """Mean and std, one per channel: 0 and 1 for channels that an edit added, otherwise the average as in timm."""
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    new = model.in_chans - len(mean)
    if new > 0 and any(isinstance(item, InChans) for item in parse_edits(getattr(model, "edits", ()))):
        mean, std = (*mean, *[0.0] * new), (*std, *[1.0] * new)
    elif new:
        mean, std = ([sum(values) / len(values)] * model.in_chans for values in (mean, std))
    return {"mean": tuple(mean), "std": tuple(std)}


@contextmanager
def _all_or_nothing(folder: Path) -> Generator[Path]:
    """A draft folder whose files move to `folder` once all of them are written."""
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


def check_folder(folder: Path, cache_dir: str | Path | None = None, *, pulled: bool = False) -> Report:
    """Compare the files in a folder with their recorded sha256, then what the model computes with its fingerprint.

    Args:
        folder: A saved backbone.
        pulled: Whether a pull made the folder, which leaves out the card.

    Raises:
        FileNotFoundError: The folder has no fingerprint.
        HubError: The files are damaged, or do not make a model.
        WeightsError: The weights are not those of the model that the config names.
    """
    files, saved = check_files(folder, pulled), saved_fingerprint(folder)
    try:
        report = compare(saved, fingerprint(load(folder, cache_dir)))
    except (HubError, WeightsError) as error:
        if not files.changed:
            raise
        raise HubError(f"{folder}: {'; '.join(files.changed)}. {error}") from error
    return replace(report, structure=(*files.changed, *report.structure), notes=files.notes)


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


def load(folder: Path, cache_dir: str | Path | None = None) -> Model:
    """The model in a folder, built once, with the dtypes of the file; timm converts all tensors to float32.

    Args:
        folder: A saved backbone.
        cache_dir: Folder of the Hub's cache, for the base of a difference; huggingface_hub's by default.

    Raises:
        HubError: The config does not fit a model of this version.
        WeightsError: The weights are not those of the model that the config names.
    """
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, cache_dir=cache_dir)
    now, delta = model.state_dict(keep_vars=True), folder_delta(folder, str(folder))
    saved = whole_tensors(folder, str(folder), delta, cache_dir=cache_dir) if delta else load_file(folder / WEIGHTS)
    for key, value in saved.items():
        if key in now and value.shape == now[key].shape and value.dtype != now[key].dtype:
            now[key].data = value
    return model
