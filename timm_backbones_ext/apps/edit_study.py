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
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from .._types import Model
from ..catalog.description import describe_model
from ..memory import kept_bytes
from .candidates import CANDIDATES, NET, PLAIN, WEIGHTS, Candidate, trained_net
from .images import Images

__all__ = ["Settings", "run_edit_study", "runs", "step_times", "summary"]

STARTS = ("identity", "usual")


@dataclass(frozen=True)
class Settings:
    """How every run is trained."""

    steps: int = 100
    batch: int = 32
    rate: float = 1e-3
    """Of AdamW, the highest of one cycle."""
    warmup: float = 0.1
    """Part of the steps in which the rate rises."""
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
    result |= {"costs": {name: _cost(CANDIDATES[name], data[0], settings) for name in names}, "machine": _machine()}
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
    return {"name": images.name, **counts, "side": images.train.shape[-1], "rate": images.rate}


def _machine() -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")}
    about = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {**about, "versions": versions}


def _cost(candidate: Candidate, images: Images, settings: Settings) -> dict[str, float]:
    """Parameters, those that learn, 1e9 multiply-adds at the net's own input size, and what a training step keeps."""
    model = _form(candidate.identity, images, seed=0)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kept = kept_bytes(model.train(), _pixels(model, images.train[: settings.batch]))
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT's wrapper
    facts = describe_model(copy.deepcopy(inside).to("meta"))
    return {"params": facts.params, "trained": trained, "gmacs": round(facts.gmacs, 4), "kept": kept}


def _form(change: Callable[[Model], Model], images: Images, seed: int) -> Model:
    return change(trained_net(images.classes, seed)).to(memory_format=torch.channels_last)  # half the time of a step


def _run(images: Images, name: str, start: str, seed: int, settings: Settings) -> Run:
    begun = time.perf_counter()
    model = _form(getattr(CANDIDATES[name], start), images, seed)
    training = Training(model, images, seed, settings, CANDIDATES[name].rate)
    for _ in range(settings.steps):
        training.step()
    score = _score(model, images)
    return Run(images.name, name, start, seed, round(score, 4), round(time.perf_counter() - begun, 1))


class Training:
    """A net that is trained, step by step."""

    def __init__(self, model: Model, images: Images, seed: int, settings: Settings, factor: float) -> None:
        self.model, self.images, self.batch = model.train(), images, settings.batch
        self.order, rate = torch.Generator().manual_seed(seed), settings.rate * images.rate * factor
        chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(chosen, lr=rate, weight_decay=settings.weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=settings.steps, pct_start=settings.warmup
        )
        self.loss = nn.functional.cross_entropy if images.train_labels.ndim == 1 else _several
        for module in model.modules():
            if hasattr(module, "momentum"):
                module.momentum = settings.momentum

    def step(self) -> None:
        """Learn from the next images."""
        batch = torch.randint(len(self.images.train), (self.batch,), generator=self.order)
        self.optimizer.zero_grad()
        logits = self.model(_pixels(self.model, self.images.train[batch]))
        self.loss(logits, self.images.train_labels[batch]).backward()
        self.optimizer.step()
        self.schedule.step()


def _several(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def _pixels(model: Model, images: Tensor) -> Tensor:
    """Bytes as the net's normalised input, in the memory layout of its convs."""
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _score(model: Model, images: Images) -> float:
    """Accuracy; the mean average precision of the classes where an image has several."""
    parts = images.test.split(100)
    logits = torch.cat([model.eval()(_pixels(model, pixels)) for pixels in parts])
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


def step_times(
    images: Images,
    rounds: int,
    *,
    candidates: Sequence[str] = tuple(CANDIDATES),
    settings: Settings = Settings(),
    step: Callable[[str], None] = lambda words: None,
) -> dict[str, dict[str, float]]:
    """Time of a training step of each candidate, at the identity, over that of the net without edits.

    All candidates take turns, step by step.

    Args:
        images: What they learn.
        rounds: Steps of each that are timed, after one that is not.
        candidates: Names of `CANDIDATES`; the net without edits is always among them.
        settings: As in the study; `steps` does not matter.
        step: Called after each round with a few words on it.

    Returns:
        By candidate: `ratio`, the median over the rounds, and `least` and `most`.
    """
    settings = replace(settings, steps=rounds + 1)
    chosen = {name: CANDIDATES[name] for name in (PLAIN, *candidates)}
    nets = {
        name: Training(_form(found.identity, images, 0), images, 0, settings, found.rate)
        for name, found in chosen.items()
    }
    times: dict[str, list[float]] = {name: [] for name in nets}
    for count in range(rounds + 1):
        for name, training in nets.items():
            begun = time.perf_counter()
            training.step()
            times[name].append(time.perf_counter() - begun)
        step(f"round {count}")
    ratios = {name: [own / plain for own, plain in zip(times[name][1:], times[PLAIN][1:])] for name in nets}
    kinds = {"ratio": median, "least": min, "most": max}
    return {name: {kind: round(of(found), 3) for kind, of in kinds.items()} for name, found in ratios.items()}
