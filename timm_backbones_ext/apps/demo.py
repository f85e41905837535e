"""The main job end to end: extend a backbone, train it on real digits, share it, and use it in another process.

Needs the extra `demo`. All printed numbers are measured in this run and stand in `report.json`.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import timm
import torch
from torch import Tensor, nn

from .. import testing
from .._types import Model
from ..catalog.pictures import feature_maps, load_photo, photo_maps
from ..console import heading, progress, table
from ..fingerprints import TOLERANCE
from ..local_hub import LocalHub
from ..saving.folder import save

__all__ = ["DemoError", "fresh_folder", "require_promises", "run_demo"]

MADE_BY = "timm-ext demo"
REPORT = "report.json"
SIDE = 32  # pixels that the 8x8 digits are scaled to
EXTRA = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "starlette": "starlette", "uvicorn": "uvicorn"}
USE = """\
# A new process, as a colleague's: the model comes through timm, and is verified after it was used.
import json
import sys

import timm
import torch
from safetensors.torch import load_file

repo, digits = sys.argv[1:]
test = load_file(digits)
model = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
backbone = timm.create_model(f"hf-hub:{repo}", pretrained=True, features_only=True).eval()
with torch.inference_mode():
    right = (model(test["images"]).argmax(1) == test["labels"]).sum().item()
    maps = [list(level.shape[1:]) for level in backbone(test["images"][:1])]

import timm_backbones_ext as tbx

report = tbx.verify(repo)
verdict = {"same": report.same, "largest": report.largest, "said": str(report)}
print(json.dumps({"right": right, "of": len(test["labels"]), "maps": maps, "verified": verdict}))
"""


class DemoError(RuntimeError):
    """A step of the demo failed."""


def run_demo(output: Path, *, repo: str | None = None, epochs: int = 12) -> dict[str, Any]:
    """Run the demo and write its results to a folder.

    Args:
        output: Folder to make; one that an earlier demo made is replaced.
        repo: "you/name" on the real Hub; a local Hub is started for the demo otherwise.
        epochs: Passes over the training digits.

    Returns:
        The content of `report.json`.

    Raises:
        FileExistsError: The folder holds other files than those of an earlier demo.
        ImportError: The extra `demo` is not installed.
        DemoError: A step failed, or the pulled model differs from the trained one.
    """
    _require_extra()
    fresh_folder(output)
    started = time.perf_counter()
    report: dict[str, Any] = {"made_by": MADE_BY, "machine": _machine()}
    steps = (
        ("Five feature maps of a photo", lambda: _features(output)),
        ("ext_resnet50_dcn starts as resnet50", _identity),
        ("A small ext model learns real digits", lambda: _train(output, epochs)),
        ("Pushed; pulled and verified in a new process", lambda: _share(output, repo)),
    )
    for number, (title, step) in enumerate(steps, 1):
        heading(f"{number}/{len(steps)}  {title}")
        report |= step()
    require_promises(report)
    report["seconds"] = round(time.perf_counter() - started, 1)
    (output / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    heading(f"done in {report['seconds']:.0f} s: {output}/ has the picture, the saved model and {REPORT}")
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


def _features(output: Path) -> dict[str, Any]:
    """Draw the feature maps of a photo from scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    torch.manual_seed(0)
    file, picture = output / "photo.png", output / "ext_resnet50-features.png"
    Image.fromarray(load_sample_image("china.jpg")).save(file)
    photo = load_photo(file)
    maps = photo_maps(timm.create_model("ext_resnet50", features_only=True).eval(), photo)
    feature_maps(maps, photo, picture, title="ext_resnet50 with random weights: nothing trained is shown here")
    sizes = [(v.index, *v.values.shape, v.stride) for v in maps]
    table(("level", "channels", "height", "width", "stride"), sizes)
    click.echo(f"{picture}: random weights, as the demo downloads none; `timm-ext features --pretrained` does")
    return {"features": [list(level.values.shape) for level in maps]}


def _identity() -> dict[str, Any]:
    """Load the same weights into a base and into its deformable variant and compare what they compute.

    Norm weights and statistics are random too: a last norm of zero would hide errors in the branches.
    """
    torch.manual_seed(0)
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
    new = sum(p.numel() for p in variant.parameters()) - sum(p.numel() for p in base.parameters())
    table(("output", "largest relative difference"), [(name, f"{value:.1e}") for name, value in differences.items()])
    click.echo(f"{new / 1e6:.2f}M parameters were added; both have the same random weights, in float32")
    return {"identity": differences, "new_parameters": new}


def _digits() -> dict[str, tuple[Tensor, Tensor]]:
    """scikit-learn's 1797 handwritten digits, one channel, three quarters for training and one for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16 * 2 - 1
    images = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.tensor(data.target)
    train, test = train_test_split(range(len(labels)), test_size=0.25, random_state=0, stratify=labels)
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def _train(output: Path, epochs: int) -> dict[str, Any]:
    """Train ext_resnet18 with deformable convs in its last stage, and save it."""
    torch.manual_seed(0)
    model = timm.create_model("ext_resnet18", edits="dcn(stages=[4])", in_chans=1, num_classes=10)
    digits, started = _digits(), time.perf_counter()
    with progress(epochs, "epoch") as advance:
        for loss in _epochs(model, *digits["train"], epochs):
            advance(f"loss {loss:.3f}")
    seconds = round(time.perf_counter() - started, 1)
    images, labels = digits["test"]
    with torch.inference_mode():
        right = (model.eval()(images).argmax(1) == labels).sum().item()
    save(model, output / "model", label_names=[str(i) for i in range(10)], card={"datasets": ["sklearn-digits"]})
    size = sum(file.stat().st_size for file in (output / "model").iterdir())
    click.echo(f"test accuracy {right / len(labels):.1%} ({right} of {len(labels)}) after {seconds:.0f} s")
    return {"digits": {"right": right, "of": len(labels), "epochs": epochs, "seconds": seconds, "bytes": size}}


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


def _share(output: Path, repo: str | None) -> dict[str, Any]:
    """Push the saved folder in one process; use and verify the model in another, which knows only the Hub's address."""
    from safetensors.torch import save_file

    images, labels = _digits()["test"]
    cli = [sys.executable, "-m", "timm_backbones_ext.cli"]
    python = [sys.executable] if _is_discovered() else [*cli, "run"]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="timm-ext-demo-")))
        (scratch / "use.py").write_text(USE)
        save_file({"images": images.contiguous(), "labels": labels}, scratch / "digits.safetensors")
        env = dict(os.environ)
        if repo is None:
            hub = stack.enter_context(LocalHub(scratch / "hub"))
            env |= hub.env
            click.echo(f"a Hub on this machine: {hub.endpoint}")
        name = repo or "demo/ext_resnet18-digits"
        pushed = json.loads(_output_of([*cli, "push", str(output / "model"), name, "--json"], env))
        click.echo(f"pushed {name}@{pushed['commit'][:8]}")
        use = [*python, str(scratch / "use.py"), name, str(scratch / "digits.safetensors")]
        pulled = json.loads(_output_of(use, env))
    verified = pulled.pop("verified")
    click.echo(f"timm.create_model('hf-hub:{name}', pretrained=True) in a new process:")
    click.echo(f"test accuracy {pulled['right'] / pulled['of']:.1%} ({pulled['right']} of {pulled['of']})")
    click.echo(f"verified there: {verified['said']}")
    facts = {"repo": name, "commit": pushed["commit"], "discovered": len(python) == 1}
    return {"pulled": pulled, "verified": verified["same"], "largest": verified["largest"], **facts}


def _is_discovered() -> bool:
    """Whether plain `python` finds our models without an import; in a bare checkout `timm-ext run` is needed."""
    switched_off = os.environ.get("TIMM_BACKBONES_EXT_AUTOLOAD", "1").strip().lower() in ("0", "false", "off", "no")
    return not switched_off and bool(entry_points(group="torch.backends", name="timm_backbones_ext"))


def _output_of(command: list[str], env: dict[str, str]) -> str:
    """Standard output of a command, without its last newline.

    Raises:
        DemoError: The command failed; the message ends with its last output.
    """
    env = env | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise DemoError(f"{Path(command[-3]).name} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def require_promises(report: dict[str, Any]) -> None:
    """Compare the figures of a report with what the demo promises.

    Raises:
        DemoError: The variant differs from its base, or the pulled model from the trained one.
    """
    trained, pulled = report["digits"]["right"], report["pulled"]["right"]
    if not max(report["identity"].values()) <= TOLERANCE:
        raise DemoError(f"ext_resnet50_dcn differs from its base by more than {TOLERANCE:.0e}: {report['identity']}")
    if trained != pulled or not report["verified"]:
        raise DemoError(f"the pulled model gets {pulled} digits right, the trained one {trained}; see {REPORT}")
