"""The class of all commands: `--debug`, examples at the end of the help, and one set of exit statuses."""

import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import click

__all__ = [
    "BUG",
    "DEBUG",
    "FAILED",
    "INTERRUPTED",
    "STATUSES",
    "USAGE",
    "Context",
    "Verb",
    "debug_option",
    "help_width",
    "verb",
]

FAILED, USAGE, BUG, INTERRUPTED = 1, 2, 3, 130
STATUSES = f"""\b
Exit status:
  0   done
  {FAILED}   a check failed: it differs, is
      damaged, or the Hub refuses
  {USAGE}   wrong use: option, name or file
  {BUG}   a bug of timm-ext; see --debug
  {INTERRUPTED} interrupted"""
DEBUG = f"{__name__}.debug"
"""Key of the context's `meta`: whether errors come with their traceback."""
WIDEST = 100
"""Columns of the help on a wide terminal."""


def _remember(ctx: click.Context, param: click.Parameter, debug: bool) -> None:
    ctx.meta[DEBUG] = debug or ctx.meta.get(DEBUG, False)


debug_option = click.Option(
    ["--debug"], is_flag=True, expose_value=False, callback=_remember, help="Show the traceback of an error."
)


class Formatter(click.HelpFormatter):
    """Writes help that fits narrow terminals, where click gives 30 columns to the names of options."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options and their meanings in two columns."""
        super().write_dl(rows, min(col_max, self.width // 2 - 4), col_spacing)


class Context(click.Context):
    """A context whose help is written by `Formatter`."""

    formatter_class = Formatter


class Verb(click.Command):
    """A command of `timm-ext`."""

    context_class = Context

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.append(debug_option)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, unwrapped, so that they can be copied."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.examples))


verb = partial(click.command, cls=Verb)


def help_width() -> int:
    """Columns of the help; click's own are never fewer than 50."""
    return min(shutil.get_terminal_size().columns, WIDEST)
