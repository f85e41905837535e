"""A trained detector goes on with deformable convs: put in at the identity, put in as usual, and not put in.

    python benchmarks/detection.py [EPOCHS]

FCOS on `ext_resnet18` learns scenes of real digits, as `timm-ext train-detector` does by default. Three runs start from
its best state, alike in everything else; each measures mAP before its first step and after each of EPOCHS epochs.
Writes benchmarks/detection.json, and docs/guides/fine-tuning.md and docs/guides/fine-tuning.png from it.
"""

import csv
import json
import os
import platform
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl

from timm_backbones_ext.apps.detector.saved import load_detector, read_design, save_detector
from timm_backbones_ext.apps.detector.settings import Settings, settings_for
from timm_backbones_ext.apps.detector.train import train
from timm_backbones_ext.apps.usual import masks_at_half

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / "docs" / "guides"
BASE, EDITED = "ext_resnet18", "ext_resnet18_dcn"
RATE = 2e-4
"""Learning rate of the runs that start from a trained detector: a tenth of the one that it was trained with."""
RUNS = {"identity": ("#2f6f8f", "-"), "usual": ("#c65b3f", "-"), "none": ("#8a8a8a", "--")}
"""How the edit starts, and the colour and style of the curve."""
WORDS = {
    "identity": f"{EDITED}, masks start at one: the identity",
    "usual": f"{EDITED}, masks start at one half: the usual",
    "none": BASE,
}
Curve = list[tuple[int, float]]
"""Step and mAP."""


def start_as_usual(source: Path, target: Path, figures: dict[str, float]) -> Path:
    """A trained detector with deformable convs whose masks start at one half, as in the paper and in mmcv."""
    design = replace(read_design(source), backbone=EDITED)
    model = load_detector(source, design=design)
    masks_at_half(model)
    return save_detector(model, target, design, figures, "digits")


def run(settings: Settings, folder: Path) -> Curve:
    """Train, and read the evaluations from the log."""
    train(settings, folder)
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return [(int(row["step"]), round(float(row["mAP"]), 4)) for row in csv.DictReader(file) if row["mAP"]]


def best(curve: Curve) -> float:
    """The highest mAP, which is that of the detector that a run keeps."""
    return max(value for _, value in curve)


def measure(root: Path, epochs: int) -> dict[str, Curve]:
    """Curves of the detector that is started from, and of the runs that start from it."""
    curves = {"base": run(settings_for("digits", backbone=BASE), root / "base")}
    kept = root / "base" / "best"
    usual = start_as_usual(kept, root / "start", {"mAP": best(curves["base"])})
    for name in RUNS:
        start, backbone = usual if name == "usual" else kept, BASE if name == "none" else EDITED
        settings = settings_for("digits", backbone=backbone, start=str(start), epochs=epochs, lr=RATE)
        curves[name] = run(settings, root / name)
    return curves


def draw(result: dict, file: Path) -> None:
    """Curves of mAP over steps, one per run."""
    curves = result["curves"]
    figure, axes = plt.subplots(figsize=(9, 4.2), dpi=100, layout="constrained")
    for name, (colour, style) in RUNS.items():
        steps, values = zip(*curves[name], strict=True)
        axes.plot(steps, values, style, color=colour, marker="o", markersize=4, label=WORDS[name])
    before = best(curves["base"])
    axes.axhline(before, color="black", linestyle=":", linewidth=1.2, label=f"before: {before:.3f}")
    axes.set_xlim(left=0)
    axes.set_xlabel("steps after the edit, 8 images each")
    axes.set_ylabel("mAP on scenes of real digits")
    axes.set_title("A trained detector goes on with deformable convs", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file)


def page(result: dict) -> str:
    """The curves as a table in Markdown."""
    curves = result["curves"]
    before = best(curves["base"])
    steps = [step for step, _ in curves["identity"]]
    last = [curves[name][-1][1] for name in RUNS]
    rows = [f"| {WORDS[name]} | " + " | ".join(f"{value:.3f}" for _, value in curves[name]) + " |" for name in RUNS]
    setting = f"""
        Made by `benchmarks/detection.py`. FCOS on `{BASE}` learned scenes of real digits, as `timm-ext train-detector`
        does by default: mAP {before:.3f}. Three runs start from it, with equal settings and the same order of images,
        and a learning rate of {RATE:g} that falls along a cosine. mAP is measured before the first step and after each
        epoch. One seed, so differences of a hundredth say nothing."""
    meaning = f"""
        The identity is `timm-ext train-detector --backbone {EDITED} --start runs/{BASE}-digits/best`. Masks that start
        at one half, as in the [paper](https://arxiv.org/abs/1811.11168) and in mmcv, halve what every edited conv gives
        to norms that have learned otherwise: {curves["usual"][0][1]:.3f} at step 0. The residual branches of this
        detector began with zero weight, as timm's do; where they count for more,
        [more is lost](../concepts/insertion.md). At the end the three are
        {max(last) - min(last):.3f} apart: what was lost can be learned again, and digits are not what
        deformable convs are for."""
    lines = (
        "# Going on from a trained detector",
        "",
        _paragraph(setting),
        "",
        "| mAP after steps | " + " | ".join(map(str, steps)) + " |",
        "|---|" + "---|" * len(steps),
        *rows,
        "",
        _paragraph(meaning),
        "",
        "![mAP over steps](fine-tuning.png)",
    )
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False)


def main(epochs: int = 5) -> None:
    """Train, measure, write and print."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        curves = measure(Path(folder), epochs)
    result = {
        "curves": curves,
        "seconds": round(time.perf_counter() - began),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "timm-backbones-ext")},
    }
    print(text := json.dumps(result, indent=2))
    before, first = best(curves["base"]), curves["identity"][0]
    if first != (0, before):
        sys.exit(f"the identity changes the mAP from {before} to {first[1]} at step {first[0]}")
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    (DOCS / "fine-tuning.md").write_text(page(result), encoding="utf-8")
    draw(result, DOCS / "fine-tuning.png")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
