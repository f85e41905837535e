"""Options, arguments and exit statuses that several commands of `timm-ext` share."""

from pathlib import Path

import click

from ..names import HUB, find_source, repo_id, saved_folder

__all__ = [
    "announce",
    "as_json",
    "edits_option",
    "family_option",
    "numbers",
    "overwrite_option",
    "pretrained_option",
    "repo_argument",
    "require_new",
    "revision_option",
    "token_option",
]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
edits_option = click.option("--edits", default=None, help='Edits, such as "dcn(stages=[4]), frozen_bn".')
family_option = click.option("--family", default=None, help="Only this family: resnet, convnext, ...")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there already.")
pretrained_option = click.option("--pretrained", is_flag=True, help="Load the weights of the tag.")
revision_option = click.option("--revision", default=None, help="Branch, tag or commit.")
token_option = click.option("--token", default=None, help="Access token; that of `hf auth login` by default.")


def _repo(ctx: click.Context, param: click.Parameter, text: str) -> str:
    return text if ctx.resilient_parsing else repo_id(text)


repo_argument = click.argument("repo", callback=_repo)
"""A repo on the Hub; wrong ids are refused before any work."""


def announce(source: str) -> None:
    """Say, on standard error, that a source which is no folder is looked for on the Hub."""
    if "/" in source and not source.startswith(HUB) and saved_folder(source) is None:
        click.echo(f"no folder {source!r} is here; asking the Hub for the repo {find_source(source)}", err=True)


def numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> list[int] | None:
    """Callback of an option that takes numbers with commas between them."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, as in 0,2,4; got {text!r}") from None


def require_new(file: Path, *, overwrite: bool) -> None:
    """Do nothing if a file can be written.

    Raises:
        FileNotFoundError: Its folder is missing.
        FileExistsError: It exists, and `overwrite` is false.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file}: the folder {str(file.parent)!r} does not exist; make it first")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists; choose another name, or --overwrite it")
