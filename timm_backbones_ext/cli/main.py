"""`timm-ext`: look at the models, move them to and from the Hub, check them.

Tables on a terminal, tab-separated lines when piped, JSON with --json. Exit statuses are those of `verb.py`. torch and
timm are imported by the commands that need them.
"""

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from .._version import __version__
from ..errors import BackboneError
from . import catalog, convert, deploying, hub
from .bench import bench
from .classify import classify
from .depth import depth_study
from .detector import train_detector
from .doctor import doctor
from .edit_study import edit_study
from .pictures import picture
from .scale import scale
from .verb import BUG, DEBUG, FAILED, INTERRUPTED, STATUSES, USAGE, Context, Verb, debug_option, help_width
from .words import as_typed

__all__ = ["main"]


class Main(click.Group):
    """Prints errors as one line, with their traceback after --debug, and sets the exit status."""

    context_class = Context

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Let the help be as wide as the terminal."""
        return super().make_context(*args, **{"terminal_width": help_width(), **kwargs})

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        logger = logging.getLogger("timm_backbones_ext")
        logger.addHandler(handler := Lines())
        logger.setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):  # click knows what to do
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            status, words = _status(error), " ".join(str(error).split())
            unexpected = f"unexpected {type(error).__name__}: {words}; --debug shows where"
            click.echo(f"Error: {unexpected if status == BUG else as_typed(words, self)}", err=True)
            ctx.exit(status)
        finally:
            logger.removeHandler(handler)


class Lines(logging.Handler):
    """Writes the log of the library to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        click.echo(record.getMessage(), err=True)


def _status(error: Exception) -> int:
    """Exit status for an error."""
    if isinstance(error, BackboneError):
        return FAILED
    return USAGE if isinstance(error, (ValueError, OSError, ImportError)) else BUG


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]}, epilog=STATUSES, params=[debug_option])
@click.version_option(__version__, prog_name="timm-ext")
def main() -> None:
    """Custom timm backbones that start as the pretrained models they extend."""


for command in (
    *catalog.COMMANDS,
    picture,
    classify,
    *convert.COMMANDS,
    *deploying.COMMANDS,
    bench,
    *hub.COMMANDS,
    scale,
    train_detector,
    depth_study,
    edit_study,
    doctor,
):
    main.add_command(command)


@main.command(
    cls=Verb,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    examples=["timm-ext run train.py --model ext_resnet50_dcn", "timm-ext run -m timm.models"],
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: Sequence[str]) -> None:
    """Run a script (script.py ARGS, or -m module ARGS) with our models registered."""
    from .run import run_script

    run_script(list(command))


@main.command(cls=Verb, examples=["timm-ext demo", "timm-ext demo --repo you/name"])
@click.option(
    "-o", "--output", default="demo-out", show_default=True, type=click.Path(file_okay=False), help="Folder to make."
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


@main.command(cls=Verb, examples=['eval "$(timm-ext completion bash)"', "timm-ext completion fish | source"])
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in SHELL."""
    made = get_completion_class(shell)
    if made is None:
        raise ValueError(f"no completion for {shell}")
    click.echo(made(main, {}, "timm-ext", "_TIMM_EXT_COMPLETE").source())


if __name__ == "__main__":
    main()
