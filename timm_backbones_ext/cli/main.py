"""`timm-ext`: look at the models, move them to and from the Hub, check them.

Tables on a terminal, tab-separated lines when piped, JSON with --json. Exit status: 0; 1 for a failed check (it
differs, is damaged, or the Hub refuses); 2 for wrong use. torch and timm are imported by the commands that need them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from .._version import __version__
from . import catalog, convert, hub
from .depth import depth_study
from .detector import train_detector
from .edit_study import edit_study
from .options import FAILED, USAGE
from .scale import scale
from .words import as_typed

__all__ = ["main"]


class Main(click.Group):
    """Prints errors of the library as one line, and sets the exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        logger = logging.getLogger("timm_backbones_ext")
        logger.addHandler(handler := Lines())
        logger.setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            status = _status(error)
            if status is None:
                raise
            click.echo(f"Error: {as_typed(' '.join(str(error).split()), self)}", err=True)
            ctx.exit(status)
        finally:
            logger.removeHandler(handler)


class Lines(logging.Handler):
    """Writes the log of the library to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        click.echo(record.getMessage(), err=True)


def _status(error: Exception) -> int | None:
    """Exit status for an error of the library; None for a bug, whose traceback is needed."""
    if isinstance(error, (click.exceptions.Exit, click.Abort, BrokenPipeError)):  # click knows what to do
        return None
    if not isinstance(error, RuntimeError):
        return USAGE
    from ..errors import BackboneError

    return FAILED if isinstance(error, BackboneError) else None


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="timm-ext")
def main() -> None:
    """Custom timm backbones that start as the pretrained models they extend."""


for command in (*catalog.COMMANDS, *convert.COMMANDS, *hub.COMMANDS, depth_study, edit_study, scale, train_detector):
    main.add_command(command)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: Sequence[str]) -> None:
    """Run a script (script.py ARGS, or -m module ARGS) with our models registered."""
    from .run import run_script

    run_script(list(command))


@main.command()
@click.option(
    "--output", default="demo-out", show_default=True, type=click.Path(file_okay=False), help="Folder to make."
)
@click.option("--repo", default=None, help="you/name on the real Hub for the digits' net, instead of a local Hub.")
@click.option("--epochs", default=2, show_default=True, type=click.IntRange(1), help="Epochs on the digits.")
def demo(output: str, repo: str | None, epochs: int) -> None:
    """Show the main job end to end, in a few minutes: extend a trained net, grow it, train, share, verify."""
    from ..apps.demo import DemoError, run_demo

    try:
        run_demo(Path(output), repo=repo, epochs=epochs)
    except DemoError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in SHELL: eval "$(timm-ext completion bash)"."""
    made = get_completion_class(shell)
    if made is None:
        raise ValueError(f"no completion for {shell}")
    click.echo(made(main, {}, "timm-ext", "_TIMM_EXT_COMPLETE").source())


if __name__ == "__main__":
    main()
