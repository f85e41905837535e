"""What commands print: tables, rules and bars on a terminal; plain tab-separated lines where output is piped."""

import json
import math
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.table import Table

__all__ = ["heading", "print_json", "progress", "table"]

NAME = 40  # characters of a first column that are not folded


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a header; long cells fold on a terminal, columns of numbers stand right."""
    rows = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(_is_number(row[index]) for row in rows)
        whole = numbers or (index == 0 and all(len(row[0]) <= NAME for row in rows))  # names are there to be copied
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        drawn.add_row(*row)
    Console(highlight=False, markup=False).print(drawn)


def _is_number(text: str) -> bool:
    return text.removesuffix("M").replace(".", "", 1).replace("e-", "", 1).isdigit()


def heading(text: str) -> None:
    """Print the title of a step."""
    if sys.stdout.isatty():
        Console(highlight=False, markup=False).print(Rule(text, align="left"))
    else:
        click.echo(f"== {text}")


def print_json(data: Any) -> None:
    """Print strict JSON; numbers that JSON lacks are the strings "inf", "-inf" and "nan"."""
    click.echo(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def progress(total: int, unit: str, every: int = 1) -> Generator[Callable[[str], None]]:
    """Gives a function to call after each of `total` steps, with a few words on it: a bar, or a line `every` steps."""
    if not sys.stdout.isatty():
        count = iter(range(1, total + 1))

        def line(words: str) -> None:
            if (step := next(count)) % every == 0:
                click.echo(f"{unit} {step}/{total}\t{words}")

        yield line
        return
    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(highlight=False)) as bar:
        task = bar.add_task("", total=total)
        yield lambda words: bar.update(task, advance=1, description=words)
