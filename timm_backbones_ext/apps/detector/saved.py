"""A trained detector as a folder: the backbone as `tbx.save` writes it, with neck and head in files beside it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..._types import Model
from ..._version import __version__
from ...detection.pyramids import pyramid
from ...errors import WeightsError
from ...hub.download import pull
from ...names import find_source
from ...saving.card import REPO_PLACEHOLDER
from ...saving.folder import save
from ...saving.manifest import write_manifest
from ...transport import Repo
from ...weights.files import CONFIG, DETECTOR, WEIGHTS, read_header, write_safetensors
from ...weights.fit import mismatch
from .fcos import detector

__all__ = ["Design", "build", "load_detector", "read_design", "save_detector"]

DESIGN, REST = DETECTOR
NEEDED = (CONFIG, WEIGHTS, *DETECTOR)
BODY = "backbone.body."
USE = """\
## Detector

The repo holds a whole detector: torchvision's FCOS on a feature pyramid of this backbone, with the results above.

```python
import torch

from timm_backbones_ext import load_detector
from timm_backbones_ext.apps.detector.saved import read_design

detector, classes = load_detector("{repo}"), read_design("{repo}").classes
found = detector([torch.rand(3, 480, 640)])[0]  # RGB from 0 to 1: boxes, labels, scores
```
"""


@dataclass(frozen=True)
class Design:
    """How to build a detector, without its weights."""

    backbone: str
    edits: str | None
    levels: str
    out_channels: int
    num_convs: int
    min_size: int
    max_size: int
    classes: tuple[str, ...]
    pretrained: bool
    """Whether the backbone started from published weights."""


def build(design: Design, **kwargs: Any) -> Model:
    """The detector of a design; `kwargs` are those of `pyramid`.

    Raises:
        ValueError: No such backbone, edit or level.
    """
    body = pyramid(design.backbone, design.out_channels, design.levels, edits=design.edits, **kwargs)
    sizes = {"min_size": design.min_size, "max_size": design.max_size}
    return detector(body, len(design.classes), num_convs=design.num_convs, **sizes)


def save_detector(model: Model, folder: str | Path, design: Design, metrics: Mapping[str, float], data: str) -> Path:
    """Write a detector to a folder; either all files appear or none.

    Args:
        model: The detector, a model of `build`.
        folder: The folder; an earlier detector in it is replaced.
        design: What was given to `build`.
        metrics: Results, for the card.
        data: The data set of the results.
    """
    body, folder = model.backbone.body, Path(folder)
    card: dict[str, Any] = {"datasets": [data], "pipeline_tag": "object-detection"}
    if not design.pretrained:
        card["base_model"] = card["base_model_relation"] = None
    draft, old = (folder.with_name(f"{folder.name}.{word}") for word in ("draft", "old"))
    for left_over in (draft, old):
        shutil.rmtree(left_over, ignore_errors=True)
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    save(body, draft, card=card, metrics=rounded, section=USE.format(repo=REPO_PLACEHOLDER))
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items() if not key.startswith(BODY)}
    write_safetensors(state, draft / REST, {"format": "pt", "timm_backbones_ext": __version__})
    (draft / DESIGN).write_text(json.dumps(asdict(design), indent=2) + "\n", encoding="utf-8")
    write_manifest(draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load_detector(source: str | Path, *, design: Design | None = None, **kwargs: Any) -> Model:
    """The detector in a folder or a repo on the Hub, in eval mode.

    Args:
        source: Folder, or "owner/name".
        design: Another design for the same weights, with more edits; the new edits start as the identity.
        kwargs: Further arguments of `pyramid`, such as `freeze_at`.

    Raises:
        WeightsError: The weights do not fit the design.
        HubError: The repo cannot be fetched.
        FileNotFoundError: There is no such folder, or it holds no detector.
    """
    folder = _folder(source)
    weights = {"file": str(folder / WEIGHTS), "source": ""}
    model = build(design or read_design(folder), pretrained=True, pretrained_cfg_overlay=weights, **kwargs)
    model.backbone.body.pretrained_cfg["file"] = None
    state = model.state_dict()
    expected = {key: value for key, value in state.items() if not key.startswith(BODY)}
    if problem := mismatch(read_header(folder / REST), expected):
        raise WeightsError(f"neck and head in {folder / REST} do not fit, nothing was loaded: {problem}")
    model.load_state_dict({**state, **load_file(folder / REST)})
    return model.eval()


def read_design(source: str | Path) -> Design:
    """The design of a saved detector.

    Raises:
        FileNotFoundError: The folder holds no detector.
        ValueError: The design file is damaged, or of another version.
    """
    file = _folder(source) / DESIGN
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        content["classes"] = tuple(content["classes"])
        return Design(**content)
    except (ValueError, TypeError, KeyError) as error:
        names = ", ".join(field.name for field in fields(Design))
        raise ValueError(f"{file} does not describe a detector ({error}); expected {names}") from error


def _folder(source: str | Path) -> Path:
    """The folder of a detector; for a repo, the folder in the Hub's cache."""
    folder = find_source(source)
    if isinstance(folder, str):
        name, folder = folder, pull(folder, check=False)
        repo = Repo(name, folder.name)
        for name in DETECTOR:
            if repo.has(name):
                repo.file(name)
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{source} holds no detector: it lacks {', '.join(missing)}")
    return folder
