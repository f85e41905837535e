"""`timm-ext`: look at the models, move them to and from the Hub, check them.

Tables on a terminal, tab-separated lines when piped, JSON with --json. Exit status: 0; 1 for a failed check (it
differs, is damaged, or the Hub refuses); 2 for wrong use. torch and timm are imported by the commands that need them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .._version import __version__
from ..console import print_json, table
from ..names import create, editable, known, licences, one_of
from . import convert
from .detector import train_detector
from .hub import COMMANDS
from .options import FAILED, USAGE, as_json, edits_option, family_option, pretrained_option

__all__ = ["main"]


class Main(click.Group):
    """Turns the library's errors into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            status = None if ctx.invoked_subcommand == "run" else _status(error)  # a script's errors are its own
            if status is None:
                raise
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(status)


def _status(error: Exception) -> int | None:
    """Exit status for an error of the library; none for one that is a bug and needs its traceback."""
    if isinstance(error, (click.exceptions.Exit, click.Abort, BrokenPipeError)):  # click knows what to do
        return None
    if not isinstance(error, RuntimeError):
        return USAGE
    from ..errors import HubError, WeightsError

    return FAILED if isinstance(error, (HubError, WeightsError)) else None


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="timm-ext")
def main() -> None:
    """Custom timm backbones that start as the pretrained models they extend."""


for command in (*COMMANDS, *convert.COMMANDS, train_detector):
    main.add_command(command)


@main.command("list")
@family_option
@click.option("--edit", default=None, help="Only variants with this edit: dcn, ...")
@click.option("--license", "licence", default=None, help="Only variants with a tag of this licence: apache-2.0, ...")
@as_json
def list_command(family: str | None, edit: str | None, licence: str | None, as_json: bool) -> None:
    """List the variants."""
    from ..edits import EDITS
    from ..families.layout import FAMILIES
    from ..registry import VARIANTS

    one_of("family", family, FAMILIES)
    one_of("edit", edit, EDITS)
    one_of("licence", licence, {item for name in VARIANTS for item in licences(name).values()})
    found = [facts for facts in map(_variant, VARIANTS) if _wanted(facts, family, edit, licence)]
    if as_json:
        return print_json(found)
    return table(("name", "base", "edits", "tags", "licences"), map(_row, found))


def _variant(name: str) -> dict[str, Any]:
    """What `timm-ext list` says of a variant."""
    from timm.models import model_entrypoint

    from ..registry import VARIANTS

    variant = VARIANTS[name]
    family = model_entrypoint(variant.base).__module__.rpartition(".")[2]  # timm has one module per family
    return {
        "name": name,
        "family": family,
        "base": variant.base,
        "edits": list(variant.edits),
        "tags": licences(name),
    }


def _wanted(facts: Mapping[str, Any], family: str | None, edit: str | None, licence: str | None) -> bool:
    from ..edits import parse_edits

    has = (facts["family"],), [item.name for item in parse_edits(facts["edits"])], facts["tags"].values()
    return all(wanted is None or wanted in there for wanted, there in zip((family, edit, licence), has, strict=True))


def _row(facts: Mapping[str, Any]) -> tuple[object, ...]:
    edits, licences = (", ".join(words) or "-" for words in (facts["edits"], sorted(set(facts["tags"].values()))))
    return facts["name"], facts["base"], edits, len(facts["tags"]), licences


@main.command()
@click.argument("name")
@edits_option
@as_json
def info(name: str, edits: str | None, as_json: bool) -> None:
    """Show what NAME costs and gives: parameters, GMACs, levels, tags and edits."""
    from ..catalog.description import describe
    from ..edits import parse_edits

    used = parse_edits(getattr(create(name, edits=edits, device="meta"), "edits", ()))
    about = [{"edit": str(edit), "exact": edit.exact, "evidence": edit.evidence} for edit in used]
    facts, tags = describe(name, **editable(name, edits)), licences(name)
    if as_json:
        return print_json({"name": name, **asdict(facts), "tags": tags, "edits": about})
    size = "x".join(map(str, facts.input_size))
    click.echo(f"{name}: {facts.params / 1e6:.2f}M parameters, {facts.gmacs:.2f} GMACs at {size}")
    table(("level", "channels", "stride", "module"), [(v.index, v.channels, v.stride, v.module) for v in facts.levels])
    if tags:
        table(("tag", "licence"), tags.items())
    if about:
        table(("edit", "exact in", "evidence"), [tuple(item.values()) for item in about])
    return None


@main.command("edits")
@click.argument("name", required=False)
@family_option
@click.option(
    "--base", default=None, help="timm architecture to state the costs on; resnet50, convnext_tiny, ... else."
)
@as_json
def edits_command(name: str | None, family: str | None, base: str | None, as_json: bool) -> None:
    """List the edits, or the one called NAME: exactness, evidence, and costs on a base."""
    from ..catalog.costs import applicable, cost, named_base
    from ..edits import EDITS, list_edits, parse_edits

    one_of("edit", name, EDITS)
    fitting = applicable(known(base)) if base else EDITS.values()
    chosen = [EDITS[key] for key in list_edits(family) if name in (None, key)]
    found = [item for item in chosen if item in fitting]
    if not found:
        raise ValueError(f"no such edit for {base or family}; `timm-ext edits` lists all")
    keys = ("name", "example", "families", "exact", "evidence")
    facts = [
        {key: getattr(item, key) for key in keys} | asdict(cost(edit, base or named_base(edit, family)))
        for item in found
        for edit in parse_edits(item.example)
    ]
    if as_json:
        return print_json(facts)
    table(("edit", "on", "parameters", "GMACs", "time", "merges"), map(_cost_row, facts))
    click.echo()
    rows = [(v["name"], ", ".join(v["families"]), v["exact"], v["evidence"]) for v in facts]
    return table(("edit", "families", "exact in", "evidence"), rows)


def _cost_row(facts: Mapping[str, Any]) -> tuple[object, ...]:
    added = f"{facts['params']:+,}", f"{facts['gmacs']:+.2f}"
    ratio = f"{facts['time_ratio']:.2f}x" if facts["time_ratio"] else "-"
    return facts["example"], facts["base"], *added, ratio, "yes" if facts["merges"] else "no"


def _numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between them, as in 0,2,4; got {text!r}") from None


@main.command()
@click.argument("name")
@click.option("--image", required=True, type=click.Path(exists=True, dir_okay=False), help="A photo.")
@click.option(
    "--size", default=224, show_default=True, type=click.IntRange(32, 4096), help="Side in pixels to scale to."
)
@click.option("--levels", callback=_numbers, help="Levels to show, as in 0,2,4; all by default.")
@click.option("--output", type=click.Path(dir_okay=False), help="The picture; NAME-features.png by default.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
@edits_option
@pretrained_option
@as_json
def features(name: str, output: str | None, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Run a photo through NAME and draw its feature maps."""
    import torch

    from ..catalog.pictures import feature_maps, load_photo, photo_maps, require_matplotlib

    require_matplotlib()
    torch.manual_seed(0)  # random weights draw the same picture again
    picture = Path(output or f"{re.sub('[:/]', '-', name)}-features.png")
    if picture.exists() and not overwrite:
        raise FileExistsError(f"{picture} exists; choose another --output, or --overwrite it")
    model = create(name, features_only=True, edits=options["edits"], pretrained=options["pretrained"])
    title = name if options["pretrained"] else f"{name}, random weights (--pretrained loads trained ones)"
    photo = load_photo(options["image"], options["size"])
    maps = photo_maps(model, photo, options["levels"])
    feature_maps(maps, photo, picture, title=title)
    columns = ("level", "channels", "stride", "size")
    rows = [(v.index, len(v.values), v.stride, "x".join(map(str, v.values.shape[1:]))) for v in maps]
    if as_json:
        levels = [dict(zip(columns, row, strict=True)) for row in rows]
        return print_json({"picture": str(picture), "levels": levels})
    table(columns, rows)
    return click.echo(f"wrote {picture}", err=True)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: Sequence[str]) -> None:
    """Run a script (script.py ARGS, or -m module ARGS) with our models registered."""
    if command == ("-m",) or (command[0] != "-m" and not Path(command[0]).is_file()):
        raise click.UsageError(f"no script {command[0]!r}; expected: run script.py ARGS, or run -m module ARGS")
    from .run import run_script

    run_script(list(command))


@main.command()
@click.option(
    "--output", default="demo-out", show_default=True, type=click.Path(file_okay=False), help="Folder to make."
)
@click.option("--repo", default=None, help="you/name on the real Hub, instead of a local one.")
@click.option("--epochs", default=12, show_default=True, type=click.IntRange(1), help="Epochs on the digits.")
def demo(output: str, repo: str | None, epochs: int) -> None:
    """Show the main job end to end, in a few minutes: extend, train, share, verify."""
    from ..apps.demo import DemoError, run_demo

    try:
        run_demo(Path(output), repo=repo, epochs=epochs)
    except DemoError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
