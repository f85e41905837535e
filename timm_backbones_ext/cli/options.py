"""Options and exit statuses that several commands of `timm-ext` share."""

import click

__all__ = [
    "FAILED",
    "USAGE",
    "as_json",
    "edits_option",
    "family_option",
    "numbers",
    "pretrained_option",
    "revision_option",
    "token_option",
]

FAILED, USAGE = 1, 2

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
edits_option = click.option("--edits", default=None, help='Edits, such as "dcn(stages=[4]), frozen_bn".')
family_option = click.option("--family", default=None, help="Only this family: resnet, convnext, ...")
pretrained_option = click.option("--pretrained", is_flag=True, help="Load the weights of the tag.")
revision_option = click.option("--revision", default=None, help="Branch, tag or commit.")
token_option = click.option("--token", default=None, help="Access token; that of `hf auth login` by default.")


def numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> list[int] | None:
    """Callback of an option that takes numbers with commas between them."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, as in 0,2,4; got {text!r}") from None
