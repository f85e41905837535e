"""The command of `timm-ext` that measures models in every runtime."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import print_json, table
from ..names import create, saved_folder
from .options import as_json, edits_option, numbers, overwrite_option, pretrained_option, require_new
from .verb import verb

if TYPE_CHECKING:
    from .._types import Model

__all__ = ["bench"]

MODELS = "resnet50,convnext_tiny,efficientnet_b0"
AGAINST = ("timm", "torchvision", "onnxruntime", "openvino", "ncnn", "mnn", "compile")
"""Those of `apps/bench/contenders.py`, which imports torch."""
USUAL = "timm,onnxruntime,openvino,ncnn"
PEERS = f"What to compare with, of: {', '.join(AGAINST)}. By default: {', '.join(USUAL.split(','))}."
COLUMNS = ("contender", "ms", "quartiles", "times faster", "error", "of the ceiling")


def _peers(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in AGAINST]:
        raise click.BadParameter(f"unknown: {unknown[0]!r}; there is: {', '.join(AGAINST)}")
    return names


@verb(
    "bench",
    examples=[
        "timm-ext bench --models resnet50 --size 224,640",
        "timm-ext bench --models FOLDER --classifier --against timm,onnxruntime --file bench.json --chart bench.svg",
    ],
)
@click.option("--models", default=MODELS, show_default=True, help="Names or saved folders, with commas between them.")
@click.option("--against", default=USUAL, callback=_peers, help=PEERS)
@click.option("--size", default="224", show_default=True, callback=numbers, help="Sides of the images: 224,640.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Images at once.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads of each contender.")
@click.option("--bfloat16", is_flag=True, help="Our runtimes in bfloat16 as well.")
@click.option("--classifier", is_flag=True, help="Classifiers instead of feature maps.")
@click.option("--seconds", default=10.0, show_default=True, help="Time to measure each model at each size.")
@click.option("--file", default=None, type=click.Path(dir_okay=False, path_type=Path), help="Write JSON to this file.")
@click.option("--chart", default=None, type=click.Path(dir_okay=False, path_type=Path), help="Draw: .svg, .pdf, .png.")
@edits_option
@pretrained_option
@overwrite_option
@as_json
def bench(
    models: str,
    against: list[str],
    size: list[int],
    batch: int,
    threads: int,
    bfloat16: bool,
    classifier: bool,
    seconds: float,
    file: Path | None,
    chart: Path | None,
    overwrite: bool,
    as_json: bool,
    **made: Any,
) -> None:
    """Measure models as timm gives them and as this package deploys them, in turn, in every runtime.

    Outputs are compared first; a contender that computes something else is left out. "timm" is eager PyTorch. Other
    names are runtimes given timm's own graph; "ours" is what `deploy` makes.
    """
    for path in (file, chart):
        if path:
            require_new(path, overwrite=overwrite)
    if chart and chart.suffix not in (".svg", ".pdf", ".png"):
        raise ValueError(f"expected a chart that ends in .svg, .pdf or .png; got {chart.name!r}")
    from ..apps.bench.chart import draw
    from ..apps.bench.measuring import Load, surroundings
    from ..apps.bench.measuring import bench as measure

    load = Load(tuple(size), batch, threads, ("float32", "bfloat16") if bfloat16 else ("float32",), seconds)
    result: dict[str, Any] = {**surroundings(threads, min(0.5, seconds)), "cells": {}}
    for name in models.split(","):
        model = _model(name, classifier=classifier, **made)
        limits = result["machine"]["ceiling"]
        for side, cell in measure(model, load, against, limits, lambda words: click.echo(words, err=True)):
            result["cells"][f"{name} {side}"] = cell
            if not as_json:
                _show(f"{name} {side}", cell)
    if file:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if chart:
        draw(result["cells"], chart)
    if as_json:
        print_json(result)


def _model(name: str, *, classifier: bool, pretrained: bool, **made: Any) -> "Model":
    """A model with its weights, or with random ones that leave no branch silent; its maps, or its classifier."""
    from ..features import wrap
    from ..testing import calibrate

    trained = pretrained or Path(name).is_dir() or saved_folder(name) is not None
    model = create(name, pretrained=trained, **made)
    model = model.eval() if trained else calibrate(model).eval()
    return model if classifier else wrap(model, "list").eval()


def _show(title: str, cell: dict[str, Any]) -> None:
    """Print a cell as a table, the fastest contender first."""
    click.echo(f"{title} px, batch {cell['batch']}, threads {cell['threads']}, {cell['gmacs']:.2f} GMACs")
    items = sorted(cell["contenders"].items(), key=lambda item: item[1]["ms"])
    table(COLUMNS, [(name, *_figures(row)) for name, row in items])
    for words in cell["left_out"]:
        click.echo(words)


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["quartiles_ms"]
    faster = "no difference" if row["no_difference"] else f"{row['times_faster']:.2f}x"
    return f"{row['ms']:.2f}", f"{low:.2f}-{high:.2f}", faster, f"{row['error']:.0e}", f"{row['share'] or 0:.0%}"
