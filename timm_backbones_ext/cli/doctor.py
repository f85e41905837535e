"""The command of `timm-ext` that examines the installation."""

from dataclasses import asdict

import click

from ..console import print_json, table
from .options import as_json
from .verb import FAILED, verb

__all__ = ["doctor"]

NECESSARY = ("timm", "torch", "torchvision", "huggingface_hub", "safetensors", "discovery")
"""Findings without which the status is 1; extras may be missing."""


@verb(examples=["timm-ext doctor", "timm-ext doctor --json"])
@as_json
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what is installed, what is missing for which command, whether discovery works, and what to do."""
    from ..apps.doctor import examine

    found = list(examine())
    if as_json:
        print_json([asdict(item) for item in found])
    else:
        table(("subject", "state"), [(item.subject, item.state) for item in found])
        if advice := [(item.subject, item.advice) for item in found if item.advice]:
            click.echo()
            table(("for", "do"), advice)
    ctx.exit(0 if all(item.fine for item in found if item.subject in NECESSARY) else FAILED)
