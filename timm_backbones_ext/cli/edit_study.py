"""The command of `timm-ext` that fine-tunes a trained net with and without edits."""

from contextlib import nullcontext
from pathlib import Path

import click

from ..console import print_json, progress, table
from .options import as_json
from .verb import verb

__all__ = ["edit_study"]


@verb("edit-study", examples=["timm-ext edit-study --data photos --only eca --seeds 1"])
@click.option(
    "--data", default=None, type=click.Path(file_okay=False), help="Folder; Debian's Fashion-MNIST otherwise."
)
@click.option("--only", multiple=True, help="Only this edit or way to train; can be given more than once.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each net.")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(4), help="Steps of each run.")
@click.option("--train", default=8000, show_default=True, type=click.IntRange(10), help="Images to train on.")
@click.option("--test", default=1000, show_default=True, type=click.IntRange(10), help="Images to test on.")
@click.option("--side", default=48, show_default=True, type=click.IntRange(32), help="Pixels, a multiple of 16.")
@click.option(
    "-o", "--output", default="edit-study", show_default=True, type=click.Path(file_okay=False), help="Folder."
)
@as_json
def edit_study(
    data: str | None,
    only: tuple[str, ...],
    seeds: int,
    steps: int,
    train: int,
    test: int,
    side: int,
    output: str,
    as_json: bool,
) -> None:
    """Fine-tune a trained EfficientNet-Lite0 with and without edits, alike, and compare.

    It takes about an hour on a quiet core. The images are Fashion-MNIST's, or those of a folder
    with a folder per class; without --data scenes of digits too. Where the package peft is installed,
    its LoRA is compared too. Writes edits.json.
    """
    from ..apps.candidates import available
    from ..apps.edit_study import Settings, run_edit_study, runs, summary
    from ..apps.images import digit_scenes, read_images

    sets = [read_images(data, train=train, test=test, side=side)]
    if data is None:
        sets.append(digit_scenes(train=train, test=test, side=side))
    names, settings = only or available(), Settings(steps=steps, seeds=seeds)
    total = len(sets) * runs(names, seeds)
    with nullcontext(_silent) if as_json else progress(total, "run") as step:
        result = run_edit_study(Path(output), sets, candidates=names, settings=settings, step=step)
    if as_json:
        return print_json(result)
    columns = ("data", "candidate", "start", "mean", "min", "max", "gain", "verdict")
    table(columns, [[row[key] for key in columns] for row in summary(result)])
    return click.echo(f"wrote {Path(output) / 'edits.json'}")


def _silent(words: str) -> None:
    """Standard output is for the JSON."""
