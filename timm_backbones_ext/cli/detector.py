"""The command of `timm-ext` that trains a detector."""

import contextlib
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..console import print_json, table
from .options import as_json, edits_option, pretrained_option, token_option
from .verb import verb

__all__ = ["train_detector"]

EXTRA = ("accelerate", "faster_coco_eval", "tensorboard", "torchmetrics")
above_zero = click.IntRange(1)


class Setting(click.Option):
    """An option whose default depends on the data; the help names both defaults."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What the help says in brackets."""
        from ..apps.detector.settings import DEFAULTS

        extra = super().get_help_extra(ctx)
        digits, coco = (getattr(DEFAULTS[data], self.name or "") for data in ("digits", "coco"))
        if digits is not None:
            extra["default"] = f"{digits}" if digits == coco else f"{digits} (coco: {coco})"
        return extra


setting = partial(click.option, cls=Setting)


@verb(
    "train-detector",
    examples=[
        "timm-ext train-detector --backbone ext_resnet18_dcn",
        "timm-ext train-detector --data coco:ROOT --pretrained",
    ],
)
@click.option("--backbone", default="ext_resnet18", show_default=True, help="Name of a variant.")
@click.option("--data", default="digits", show_default=True, help="digits, digits:SCENES or coco:ROOT.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), help="Folder of the run; runs/BACKBONE-DATA by default."
)
@click.option("--resume", is_flag=True, help="Go on with the run in the folder; --epochs may be more.")
@click.option(
    "--start", help="Trained detector to start from: a run's best/ or a repo; new edits start as the identity."
)
@edits_option
@pretrained_option
@setting("--levels", help="Levels of the pyramid.")
@setting("--out-channels", type=above_zero, help="Channels of the pyramid.")
@setting("--num-convs", type=above_zero, help="Convs of each branch of the head.")
@setting("--min-size", type=above_zero, help="Pixels that the shorter side of images is scaled to.")
@setting("--max-size", type=above_zero, help="Largest longer side in pixels after scaling.")
@setting("--flip", type=click.FloatRange(0, 1), help="Probability of a horizontal flip.")
@setting("--freeze-at", type=int, help="Freeze the backbone up to the maps of stride 2**N.")
@click.option("--sync-bn", is_flag=True, default=None, help="Batch norms use the statistics of all processes.")
@setting("--epochs", type=above_zero, help="Passes over the images.")
@setting("--batch-size", type=above_zero, help="Images per process.")
@setting("--lr", type=float, help="Learning rate of AdamW.")
@setting("--weight-decay", type=float, help="Weight decay of AdamW; none on norms and biases.")
@setting("--layer-decay", type=float, help="Factor on the rate for each layer, from the end to the image.")
@setting("--clip", type=float, help="Largest norm of all gradients; larger ones are scaled down.")
@setting("--eval-every", type=above_zero, help="Epochs between evaluations.")
@setting("--workers", type=click.IntRange(0), help="Processes that load images, per process that trains.")
@setting("--precision", type=click.Choice(["no", "fp16", "bf16"]), help="Mixed precision.")
@setting("--seed", type=int, help="Seed of all random choices.")
@click.option("--push", "repo", help="Repo on the Hub to push the best detector to.")
@token_option
@as_json
def train_detector(
    data: str, output: str | None, resume: bool, repo: str | None, token: str | None, as_json: bool, **asked: Any
) -> None:
    """Train torchvision's FCOS on a backbone: on real digits in minutes, or on a folder in COCO's format.

    Many devices: `torchrun --nproc-per-node N -m timm_backbones_ext.cli train-detector`, or `accelerate launch`.
    """
    if missing := [name for name in EXTRA if not importlib.util.find_spec(name)]:
        raise ImportError(f'training needs {", ".join(missing)}: pip install "timm-backbones-ext[detection]"')
    from ..apps.detector.settings import settings_for
    from ..apps.detector.train import train

    settings = settings_for(data, **{name: value for name, value in asked.items() if value is not None})
    folder = Path(output or f"runs/{settings.backbone}-{data.partition(':')[0]}")
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        report = train(settings, folder, resume=resume)
    if report is None:  # in a process beside the main one
        return None
    if repo:
        from ..hub.upload import push_to_hub

        report["commit"] = push_to_hub(folder / "best", repo, token=token).oid
    if as_json:
        return print_json({**report, "folder": str(folder), "repo": repo})
    return _show(report, folder, repo)


def _show(report: dict[str, Any], folder: Path, repo: str | None) -> None:
    table(("figure", "best"), [(name, f"{value:.3f}") for name, value in report["best"].items()])
    if unreadable := report["unreadable"]:
        click.echo(f"{len(unreadable)} images could not be read: {'; '.join(unreadable[:5])}")
    click.echo(f"{report['epoch']} epochs, {report['step']} steps in {report['seconds']:.0f} s")
    click.echo(f"best detector in {folder / 'best'}")
    click.echo(f"picture in {folder / 'detections.png'}")
    if repo:
        click.echo(f"pushed {repo}@{report['commit']}")
