"""The command of `timm-ext` that trains plain and residual nets of growing depth."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ..console import print_json, progress, table
from .options import as_json, numbers
from .verb import verb

__all__ = ["depth_study"]


@verb("depth-study", examples=["timm-ext depth-study --depths 8,20 --seeds 1 --epochs 5 -o study"])
@click.option("--depths", callback=numbers, default="20,32,44,56,110", show_default=True, help="Layers, 6n + 2.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each net.")
@click.option("--epochs", default=20, show_default=True, type=click.IntRange(1), help="Passes over the digits.")
@click.option(
    "-o", "--output", default="depth-study", show_default=True, type=click.Path(file_okay=False), help="Folder."
)
@as_json
def depth_study(depths: list[int], seeds: int, epochs: int, output: str, as_json: bool) -> None:
    """Train plain and residual nets of growing depth on scikit-learn's digits.

    It takes about half an hour. Writes depth.json and depth.png: train loss, accuracy and the first
    conv's gradient by depth.
    """
    from ..apps.depth_study import run_study, steps, summary

    total = steps(depths, seeds, epochs)
    with nullcontext(_silent) if as_json else progress(total, "epoch", every=epochs) as step:
        result = run_study(Path(output), depths=depths, seeds=seeds, epochs=epochs, step=step)
    if as_json:
        return print_json({**result, "summary": summary(result)})
    keys = ("loss", "train_accuracy", "test_accuracy", "gradient")
    rows = [(row["kind"], row["depth"], *(_mean(row[key]) for key in keys)) for row in summary(result)]
    table(("net", "layers", "train loss", "train accuracy", "test accuracy", "gradient"), rows)
    return click.echo(f"wrote {Path(output) / 'depth.json'} and {Path(output) / 'depth.png'}")


def _silent(words: str) -> None:
    """Standard output is for the JSON."""


def _mean(spread: dict[str, Any] | None) -> str:
    return f"{spread['mean']:.3g}" if spread else "not finite"
