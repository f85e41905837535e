"""The files of a push, in a folder of their own, checked before anything is sent."""

import json
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import get_rank, is_initialized

from .. import names
from .._types import Model
from ..deploy.exporting import export as write_export
from ..saving.card import merge_cards
from ..saving.folder import card_texts, require_one_form, write_card, write_folder, write_labels
from ..saving.identity import identify
from ..saving.manifest import write_manifest
from ..saving.signing import sign_folder
from ..weights.files import CARD, CONFIG, DETECTOR, EXPORTS, FILES, SIGNATURE
from .preflight import preflight

__all__ = ["drafted"]


@contextmanager
def drafted(
    source: Model | str | Path, repo_id: str, sign: str | Path | None, export: Sequence[str] = (), **made: Any
) -> Generator[Path]:
    """A scratch folder with the files to send.

    Args:
        source: A model, or a folder that `save` wrote.
        repo_id: "owner/name".
        sign: Private key to sign the files with.
        export: Formats of `EXPORTS` to add.
        made: `label_names`, `card`, `metrics`, `as_timm`, `delta`, `base` and `token` of `save`.

    Raises:
        HubError: The files do not make the model.
        ValueError: The repo id is not valid, or the model cannot be saved, or sent from this rank.
    """
    names.repo_id(repo_id)
    if unknown := [kind for kind in export if kind not in EXPORTS]:
        raise ValueError(f"cannot push the format {unknown[0]!r}; there is: {', '.join(EXPORTS)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if isinstance(source, (str, Path)):
            model = _from_folder(names.find_folder(source), folder, **made)
        else:
            model = _from_model(source, folder, **made)
        for kind in export:
            write_export(model.eval(), folder / EXPORTS[kind][0])
        write_manifest(folder)
        if sign is not None:
            sign_folder(folder, sign)
        yield folder


def _from_model(model: Model, folder: Path, *, as_timm: bool, **made: Any) -> Model:
    """Write a model; what the files make is returned."""
    found = identify(model)
    if found.sharded:
        raise ValueError("the model is sharded: call tbx.save on every rank, then push the folder from one")
    if is_initialized() and get_rank() > 0:
        raise ValueError("every rank holds the same model: push it from rank 0 alone")
    write_folder(found, folder, as_timm=as_timm, **made)
    return preflight(folder, None if as_timm else found.model)


def _from_folder(
    source: Path,
    folder: Path,
    *,
    label_names: Sequence[str] | None,
    card: Mapping[str, Any] | None,
    metrics: Mapping[str, float] | None,
    as_timm: bool,
    delta: bool,
    **of_base: Any,
) -> Model:
    """Copy a saved folder, with the label names, the card's fields and the results that are asked for now.

    Returns:
        What the files make.
    """
    require_one_form(as_timm=as_timm, delta=delta, base=of_base["base"])
    for name in (*FILES, *DETECTOR, SIGNATURE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    found = identify(preflight(folder))
    old = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    texts = card_texts(folder)
    texts["card"].update(card or {})
    texts["metrics"] = texts["metrics"] if metrics is None else metrics
    if rewritten := as_timm or delta:
        if any((folder / name).is_file() for name in DETECTOR):
            form = "a difference does not hold" if delta else "plain timm does not read"
            raise ValueError(f"{source} holds a detector, which {form}; push it as it is")
        labels = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("label_names")
        labels = labels if label_names is None else label_names
        forms: dict[str, Any] = {"as_timm": as_timm, "delta": delta, **of_base}
        write_folder(found, folder, label_names=labels, overwrite=True, **forms, **texts)
        preflight(folder)
    elif label_names is not None:
        write_labels(folder, label_names)
    if rewritten or label_names is not None:
        (folder / SIGNATURE).unlink(missing_ok=True)  # it was made for other files
    if not rewritten and (card or metrics or label_names is not None or not old):
        write_card(found, folder, **texts)
    new = (folder / CARD).read_text(encoding="utf-8")
    if old and new != old:
        (folder / CARD).write_text(merge_cards(old, new), encoding="utf-8")
    return found.model
