"""The main job end to end: extend a backbone, train it on real digits, share it, and use it in another process."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import timm
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

from . import testing
from ._types import Model
from .hub import save
from .hub.local import LocalHub
from .viz import feature_maps, load_photo

__all__ = ["run_demo"]

REPORT = "report.json"
SIDE = 32  # pixels that the 8x8 digits are scaled to
USE = """\
# A new process that knows nothing of timm-backbones-ext: the model comes through timm.
import json
import sys

import timm
import torch
from safetensors.torch import load_file

repo, digits = sys.argv[1:]
model = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
test = load_file(digits)
with torch.inference_mode():
    right = (model(test["images"]).argmax(1) == test["labels"]).sum().item()
    maps = timm.create_model(f"hf-hub:{repo}", pretrained=True, features_only=True).eval()(test["images"][:1])
print(json.dumps({"right": right, "of": len(test["labels"]), "maps": [list(level.shape[1:]) for level in maps]}))
"""


def run_demo(output: Path, *, repo: str | None = None, epochs: int = 12) -> dict[str, Any]:
    """Run the demo and write its results to a folder.

    Args:
        output: Folder to make; one that an earlier demo made is replaced.
        repo: "you/name" on the real Hub; a local Hub is started for the demo otherwise.
        epochs: Passes over the training digits.

    Returns:
        What was measured, which is also in `report.json`.

    Raises:
        FileExistsError: The folder holds something else than an earlier demo.
        ImportError: The extra `demo` is not installed.
    """
    _fresh(output)
    console, started = Console(highlight=False), time.perf_counter()
    steps = (
        ("Five feature maps of a photo", lambda: _features(console, output)),
        ("ext_resnet50_dcn starts as resnet50", lambda: _identity(console)),
        ("A small ext model learns real digits", lambda: _train(console, output, epochs)),
        ("Pushed, pulled in a new process, verified", lambda: _share(console, output, repo)),
    )
    report: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__}
    }
    for number, (title, step) in enumerate(steps, 1):
        console.rule(f"[bold]{number}/{len(steps)}  {title}", align="left")
        report |= step()
    if report["digits"]["right"] != report["pulled"]["right"]:
        raise RuntimeError(
            f"the pulled model gets {report['pulled']['right']} right, the trained one {report['digits']['right']}"
        )
    report["seconds"] = round(time.perf_counter() - started, 1)
    (output / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    console.rule(align="left")
    console.print(f"done in {report['seconds']} s; everything is in {output}/")
    return report


def _fresh(output: Path) -> None:
    if output.exists():
        if not (output / REPORT).exists() and any(output.iterdir()):
            raise FileExistsError(f"{output} exists and no demo made it; choose another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / REPORT).write_text("{}\n")  # marks the folder as ours from the start


def _features(console: Console, output: Path) -> dict[str, Any]:
    """Draw the maps of a photo that scikit-learn ships."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photo, picture = output / "photo.png", output / "ext_resnet50-features.png"
    Image.fromarray(load_sample_image("china.jpg")).save(photo)
    model: Model = timm.create_model("ext_resnet50", features_only=True).eval()
    with torch.inference_mode():
        maps = model(load_photo(photo, model, 224))
    strides = model.feature_info.reduction()
    feature_maps(
        maps, strides, photo, picture, title="ext_resnet50, random weights: no pretrained ones are fetched here"
    )
    shown = Table("level", "channels", "stride", "size")
    for index, (level, stride) in enumerate(zip(maps, strides, strict=True)):
        shown.add_row(str(index), str(level.shape[1]), str(stride), f"{level.shape[2]}x{level.shape[3]}")
    console.print(shown)
    console.print(f"picture: {picture} (random weights; `timm-ext features --pretrained` takes those of the Hub)")
    return {"features": [list(level.shape[1:]) for level in maps]}


def _identity(console: Console) -> dict[str, Any]:
    """Load the same weights into a base and into its deformable variant and compare what they compute."""
    base = testing.calibrate(timm.create_model("resnet50")).eval()
    weights = {"state_dict": {key: value.clone() for key, value in base.state_dict().items()}}
    variant = timm.create_model("ext_resnet50_dcn", pretrained=True, pretrained_cfg_overlay=weights).eval()
    x = testing.image(base, 96, 96)
    with torch.inference_mode():
        pairs = list(zip(testing.outputs(variant, x), testing.outputs(base, x), strict=True))
    names = [*(f"level {i}" for i in range(len(pairs) - 1)), "logits"]
    differences = {
        name: ((got - expected).abs().max() / expected.abs().max()).item()
        for name, (got, expected) in zip(names, pairs, strict=True)
    }
    shown = Table("output", "largest difference, relative")
    for name, difference in differences.items():
        shown.add_row(name, f"{difference:.1e}")
    new = sum(p.numel() for p in variant.parameters()) - sum(p.numel() for p in base.parameters())
    console.print(shown)
    console.print(f"{new / 1e6:.2f}M new parameters, and the same function (float32; the weights are random)")
    return {"identity": differences}


def _digits() -> dict[str, tuple[Tensor, Tensor]]:
    """scikit-learn's 1797 handwritten digits, one channel, split in three parts for training to one for test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16 * 2 - 1
    images = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.tensor(data.target)
    train, test = train_test_split(range(len(labels)), test_size=0.25, random_state=0, stratify=labels)
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def _train(console: Console, output: Path, epochs: int) -> dict[str, Any]:
    """Train ext_resnet18 with deformable convs in its last stage; save it, and the test digits beside it."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("ext_resnet18", edits="dcn(stages=[4])", in_chans=1, num_classes=10)
    digits, started = _digits(), time.perf_counter()
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("training", total=epochs)
        for loss in _epochs(model, *digits["train"], epochs):
            progress.update(task, advance=1, description=f"loss {loss:.3f}")
    seconds = time.perf_counter() - started
    images, labels = digits["test"]
    with torch.inference_mode():
        right = (model.eval()(images).argmax(1) == labels).sum().item()
    save_file({"images": images.contiguous(), "labels": labels}, output / "digits.safetensors")
    save(
        model, output / "model", label_names=[str(digit) for digit in range(10)], card={"datasets": ["sklearn-digits"]}
    )
    console.print(f"test accuracy {right / len(labels):.1%} ({right} of {len(labels)}) after {seconds:.0f} s")
    return {"digits": {"right": right, "of": len(labels), "epochs": epochs, "seconds": round(seconds, 1)}}


def _epochs(model: Model, images: Tensor, labels: Tensor, epochs: int, batch: int = 64) -> Iterator[float]:
    """Train with AdamW on one learning-rate cycle; yields the mean loss of each epoch."""
    steps = len(labels) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps * epochs)
    for _ in range(epochs):
        model.train()
        losses = []
        for chosen in torch.randperm(len(labels))[: steps * batch].split(batch):
            loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        yield sum(losses) / len(losses)


def _share(console: Console, output: Path, repo: str | None) -> dict[str, Any]:
    """Push the saved folder; use and verify it in processes of their own, as a colleague would."""
    script = output / "use.py"
    script.write_text(USE)
    with ExitStack() as stack:
        env = dict(os.environ)
        if repo is None:
            repo = "demo/ext_resnet18-digits"
            hub = stack.enter_context(LocalHub(output / "hub"))
            env |= hub.env
            console.print(f"a Hub on this machine: {hub.endpoint}")
        cli = [sys.executable, "-m", "timm_backbones_ext.cli"]
        pushed = json.loads(_run([*cli, "push", str(output / "model"), repo, "--json"], env))
        console.print(f"pushed {repo}@{pushed['commit'][:8]}")
        used = json.loads(_run([sys.executable, str(script), repo, str(output / "digits.safetensors")], env))
        console.print(
            f"timm.create_model('hf-hub:{repo}') in a new process: {used['right'] / used['of']:.1%} of the test digits"
        )
        verified = json.loads(_run([*cli, "verify", repo, "--json"], env))
        console.print(f"verified: same function, largest relative difference {verified['largest']:.1e}")
    return {"pulled": used, "commit": pushed["commit"], "verified": verified["same"]}


def _run(command: list[str], env: dict[str, str]) -> str:
    """Standard output of a command; what it says on standard error if it fails."""
    done = subprocess.run(command, env=env | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
