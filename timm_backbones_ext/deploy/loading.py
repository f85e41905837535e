"""A deployed model: one runtime, its file and its facts. Imports the runtime and numpy; no torch and no timm."""

import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackboneError
from .machine import cores, machine
from .photos import prepared
from .runtimes import Options, Run, find

__all__ = ["FACTS", "FORMAT", "Deployed", "load"]

FACTS = "deployed.json"
FORMAT = 1
"""Of the facts; a newer one is refused."""

logger = logging.getLogger(__name__)


class Deployed:
    """A model in one runtime: (N, C, H, W) -> what the model gives, in the same containers.

    Attributes:
        facts: What `deployed.json` holds: runtime, levels, image, labels, licence, errors and times measured.
        folder: Where the runtime's files are; of a model that was not loaded, a temporary folder.
    """

    def __init__(self, facts: dict[str, Any], run: Run, folder: Path) -> None:
        self.facts, self.run, self.folder = facts, run, folder

    def __call__(self, images: Any) -> Any:
        """Run the model on float32 images, a numpy array or a torch tensor; the outputs are of the same kind.

        Raises:
            ValueError: The images have another shape or type than the model takes.
        """
        torch = sys.modules.get("torch")
        tensor = torch is not None and isinstance(images, torch.Tensor)
        array = images.detach().cpu().numpy() if tensor else np.asarray(images)
        self._check(array)
        outputs = [np.asarray(output) for output in self.run(array)]
        return self._packed([torch.from_numpy(output) for output in outputs] if tensor else outputs)

    def _check(self, array: np.ndarray) -> None:
        example, channels = self.facts["example"], self.facts["image"]["size"][0]
        if array.dtype != np.float32:
            raise ValueError(f"expected float32 images; got {array.dtype}")
        if array.ndim != 4 or array.shape[1] != channels or 0 in array.shape:
            raise ValueError(f"expected images of the shape (N, {channels}, H, W); got {array.shape}")
        if not self.facts["dynamic"] and list(array.shape) != example:
            raise ValueError(
                f"the model was deployed for the shape {tuple(example)} alone; got {array.shape}. "
                "Deploy it with dynamic=True for other sizes"
            )

    def _packed(self, outputs: list[Any]) -> Any:
        """Outputs of the runtime in the containers of the model."""
        wanted = self.facts["outputs"]
        outputs = [outputs[index] for index in wanted["order"]]
        if wanted["kind"] == "dict":
            return dict(zip(wanted["keys"], outputs, strict=True))
        return outputs[0] if wanted["kind"] == "tensor" else outputs

    def classify(self, photo: Any, top: int = 5) -> list[tuple[str, float]]:
        """The most probable labels of a photo, each with its probability.

        Args:
            photo: A file, or an image of pillow.
            top: How many labels.

        Raises:
            ValueError: The model is no classifier.
        """
        labels = self.facts["labels"]
        if self.facts["outputs"]["kind"] != "tensor" or not self.facts["classes"]:
            raise ValueError(f"{self.facts['architecture']} was deployed without a classifier; it gives maps")
        logits = self(prepared(photo, self.facts["image"]))[0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        best = np.argsort(-logits, kind="stable")[:top]
        return [(labels[i] if labels else str(i), float(odds[i] / odds.sum())) for i in best]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the runtime's files and the facts to a folder that `load` reads; all of them, or nothing.

        Raises:
            FileExistsError: The folder exists and `overwrite` is false, or it is no deployed model.
            ValueError: The runtime keeps this model in memory only.
            OSError: The folder cannot be written to.
        """
        folder = Path(folder)
        if self.facts.get("unsaved"):
            raise ValueError(f"runtime {self.facts['runtime']!r} cannot save this model: {self.facts['unsaved']}")
        replace = folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder])
        if replace and not (overwrite and (folder / FACTS).is_file()):
            raise FileExistsError(f"{folder} exists; choose another folder, or overwrite it if it is a deployed model")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as scratch:
            draft = Path(scratch, "new")
            shutil.copytree(self.folder, draft)
            text = json.dumps(self.facts, indent=2, ensure_ascii=False) + "\n"
            (draft / FACTS).write_text(text, encoding="utf-8")
            if folder.exists():
                folder.rename(Path(scratch, "old"))
            draft.rename(folder)
        return folder

    def __repr__(self) -> str:
        facts = self.facts
        return f"Deployed({facts['architecture']}, {facts['runtime']}, {facts['dtype']}, error {facts['error']:.1e})"


def load(folder: str | Path, *, threads: int | None = None) -> Deployed:
    """Load a deployed folder without torch, unless its runtime is one of torch's.

    Args:
        folder: What `Deployed.save` or `timm-ext deploy` wrote.
        threads: Threads of the runtime; those of the facts by default, else all cores.

    Raises:
        FileNotFoundError: There is no deployed model.
        ImportError: The runtime is not installed; the message names the extra.
        BackboneError: The facts are damaged or of a newer version, or the runtime refuses the file.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    _compare(facts["machine"])
    options = Options(facts["dtype"], facts["dynamic"], threads or facts["threads"] or cores(), facts["way"])
    runtime = find(facts["runtime"])
    runtime.require()
    try:
        run = runtime.load(folder, options)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # each runtime has its own
        raise BackboneError(
            f"{folder}: {runtime.name} cannot load its file ({error}); deploy the model again"
        ) from error
    return Deployed(facts, run, folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of a deployed folder, checked."""
    path = folder / FACTS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no deployed model: it has no {FACTS}")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        newest = facts["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{path} is damaged ({error}); deploy the model again") from error
    if newest != FORMAT:
        raise BackboneError(f"{path}: expected format {FORMAT}; got {newest}. Upgrade the package")
    return facts


def _compare(there: dict[str, Any], keys: Sequence[str] = ("processor", "vectors")) -> None:
    """Say if the runtime was chosen on another machine."""
    here = machine()
    if any(there.get(key) != here[key] for key in keys):
        logger.warning(
            "the runtime was chosen on %s; this is %s. Outputs are the same; `timm-ext deploy` measures again",
            there.get("processor"),
            here["processor"],
        )
