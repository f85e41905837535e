"""Messages of the library in the words of the command line: options where the library names arguments."""

import re
from collections.abc import Iterator

import click

__all__ = ["as_typed"]

WORDS = {
    "overwrite it": "--overwrite",
    "force the push to replace it": "--force replaces it",
    "as_timm": "--as timm",
    "tbx.save": "`timm-ext save`",
}
"""What the options' own names do not say."""


def as_typed(message: str, group: click.Group) -> str:
    """A message with `overwrite=True` as `--overwrite`, and `batch_size` as `--batch-size`.

    Args:
        message: Of an error that the library raised.
        group: Its commands' options are known; other words stay.
    """
    options = {option.name: max(option.opts, key=len) for option in _options(group) if option.name}
    for name, option in options.items():
        message = re.sub(rf"(?<![\w./-]){name}=True\b", option, message)
        if "_" in name:
            message = re.sub(rf"(?<![\w./-]){name}(?![\w/.=-])", option, message)
    for word, instead in WORDS.items():
        message = re.sub(rf"(?<![\w./-]){re.escape(word)}(=True\b|(?![\w(=]))", instead, message)
    return message


def _options(group: click.Group) -> Iterator[click.Option]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _options(command)
        yield from (item for item in command.params if isinstance(item, click.Option))
