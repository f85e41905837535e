"""Output of the commands: tables, rules and progress bars on a terminal, tab-separated lines in a pipe."""

import html
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.table import Table

__all__ = ["heading", "html_table", "is_terminal", "print_json", "progress", "table", "working"]

GAP = 2  # blanks between columns


def is_terminal(*, err: bool = False) -> bool:
    """Whether standard output, or standard error, is a terminal."""
    return (sys.stderr if err else sys.stdout).isatty()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a header; a terminal that is too narrow for columns gets one entry below the other.

    Words are never broken, so that names can be copied. Columns of numbers are flush right. Piped output has one line
    per row, with tabs between the cells.
    """
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    if not is_terminal():
        for row in (columns, *cells):
            click.echo("\t".join(row))
        return
    console = _console()
    entries = [line for row in cells for line in _entry(columns, row, console.width)]
    widths = _widths([columns, *cells], console.width)
    folded = [[_folded(cell, width) for cell, width in zip(row, widths, strict=True)] for row in cells if widths]
    if not widths or sum(1 + max(cell.count("\n") for cell in row) for row in folded) > len(entries):
        console.print("\n".join(entries), soft_wrap=True)
        return
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        numbers = bool(cells) and all(_is_number(row[index]) for row in cells)
        drawn.add_column(_folded(column, widths[index]), justify="right" if numbers else "left", width=widths[index])
    for row in folded:
        drawn.add_row(*row)
    console.print(drawn)


def html_table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Rows under a header as HTML, for notebooks."""

    def line(tag: str, cells: Iterable[object]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    head = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{head}<thead>{line('th', columns)}</thead><tbody>{body}</tbody></table>"


def _console(*, err: bool = False) -> Console:
    return Console(
        stderr=err, highlight=False, markup=False, color_system=None if os.environ.get("NO_COLOR") else "auto"
    )


def _is_number(text: str) -> bool:
    return text.lstrip("+-").rstrip("Mx").replace(",", "").replace(".", "", 1).replace("e-", "", 1).isdigit()


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of the columns: the widest is narrowed until all fit. Empty if a word would have to be broken."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    room -= GAP * (len(columns) - 1)
    if sum(least) > room:
        return []
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda index: (widths[index] > least[index], widths[index]))
        widths[widest] -= 1
    return widths


def _folded(cell: str, width: int) -> str:
    return "\n".join(textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)) or cell


def _entry(columns: Sequence[str], row: Sequence[str], room: int) -> list[str]:
    """The lines of a row: its first cell, then one line for each other cell, after the name of its column."""
    rest = "; ".join(f"{column}:\0{cell}" for column, cell in zip(columns[1:], row[1:], strict=True))
    lines = textwrap.wrap(rest, max(room - 2, 1), break_long_words=False, break_on_hyphens=False)
    return [row[0], *("  " + line.replace("\0", " ") for line in lines)]  # no line ends between a name and its value


def heading(text: str) -> None:
    """Print the title of a step."""
    if is_terminal():
        _console().print(Rule(text, align="left"))
    else:
        click.echo(f"== {text}")


@contextmanager
def working(words: str) -> Generator[None]:
    """Show on standard error what is running: a spinner on a terminal, otherwise one line."""
    if sys.stderr.isatty():
        with Console(stderr=True, highlight=False, markup=False).status(words):
            yield
        return
    click.echo(words, err=True)
    yield


def print_json(data: Any) -> None:
    """Print strict JSON; infinities and NaN become the strings "inf", "-inf" and "nan"."""
    click.echo(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def progress(total: int, unit: str, every: int = 1, *, err: bool = False) -> Generator[Callable[[str], None]]:
    """Show the progress of a loop: a bar on a terminal, otherwise one line every few steps.

    Args:
        total: Number of steps.
        unit: Name of a step, such as "epoch".
        every: Number of steps between two lines.
        err: Write to standard error instead of standard output.

    Yields:
        A function to call after each step with a short text about that step.
    """
    if not is_terminal(err=err):
        count = iter(range(1, total + 1))

        def line(words: str) -> None:
            if (step := next(count)) % every == 0:
                click.echo(f"{unit} {step}/{total}\t{words}", err=err)

        yield line
        return
    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(err=err)) as bar:
        task = bar.add_task("", total=total)
        yield lambda words: bar.update(task, advance=1, description=words)
