"""The model of a deployment that torch itself runs: saved as any backbone is, and its levels beside it."""

import json
from pathlib import Path

from .._types import Model
from ..features import FeatureWrapper, wrap
from ..saving.folder import load, save

__all__ = ["load_model", "save_model"]

MODEL, LEVELS = "model", "levels.json"


def save_model(model: Model, folder: Path) -> str:
    """Save a model to a folder; why not if it cannot be saved."""
    try:
        save(model, folder / MODEL)
    except ValueError as error:
        return str(error)
    if isinstance(model, FeatureWrapper):
        (folder / LEVELS).write_text(json.dumps(list(model.feature_info.out_indices)), encoding="utf-8")
    return ""


def load_model(folder: Path) -> Model:
    """The model that `save_model` saved; feature models of all kinds come back as lists of maps.

    Raises:
        HubError: The files are damaged.
        WeightsError: The weights are not those of the model that the config names.
    """
    model = load(folder / MODEL).eval()
    if not (folder / LEVELS).is_file():
        return model
    return wrap(model, "list", json.loads((folder / LEVELS).read_text(encoding="utf-8"))).eval()
