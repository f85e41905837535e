"""`timm-ext`: look at the models, move them to and from the Hub, check them. Tables on a terminal, tabs when piped."""

import difflib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import timm
import torch
from rich.console import Console
from rich.table import Table

from ._run import run_script
from ._types import Model
from ._version import __version__
from .describe import describe
from .edits import EDITS, list_edits, parse
from .edits.families import FAMILIES
from .hub import HubError, pull, push_to_hub, save, verify
from .hub.local import parse_token
from .hub.local import serve as serve_hub
from .registry import VARIANTS
from .weights import WeightsError

__all__ = ["main"]

FAILED, USAGE = 1, 2
Rows = Iterable[Sequence[object]]


class Main(click.Group):
    """Turns the library's errors into one line and an exit status: 1 for a failed check, 2 for wrong use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `timm-ext list | head`: click knows what to do
            raise
        except (HubError, WeightsError) as error:
            status, message = FAILED, error
        except (ValueError, OSError, ImportError) as error:
            status, message = USAGE, error
        click.echo(f"Error: {message}", err=True)
        ctx.exit(status)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="timm-ext")
def main() -> None:
    """Custom timm backbones that start as the pretrained models they extend."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
edits_option = click.option("--edits", default=None, help='Edits, such as "dcn(stages=[4]), frozen_bn".')
pretrained_option = click.option("--pretrained", is_flag=True, help="Load the weights of the tag.")
revision_option = click.option("--revision", default=None, help="Branch, tag or commit.")
token_option = click.option("--token", default=None, help="Access token; that of `hf auth login` by default.")


def table(columns: Sequence[str], rows: Rows, *, title: str = "") -> None:
    """Print rows: a table on a terminal, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(map(str, row)))
        return
    drawn = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        drawn.add_row(*map(str, row))
    Console().print(drawn)


def print_json(data: Any) -> None:
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=2))


def known(name: str) -> str:
    """A model name that timm knows.

    Raises:
        ValueError: It does not; the message has the nearest names.
    """
    if name.startswith(("hf-hub:", "local-dir:")) or timm.is_model(name):
        return name
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    raise ValueError(
        f"unknown model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else "; see `timm-ext list`")
    )


def create(name: str, **kwargs: Any) -> Model:
    """A model by name, in eval mode."""
    return timm.create_model(known(name), **kwargs).eval()


def family(base: str) -> str:
    """The family of a timm architecture."""
    with torch.device("meta"):
        model = timm.create_model(base)
    return next(name for name, cls in FAMILIES.items() if isinstance(model, cls))


def licences(name: str) -> dict[str, str]:
    """Tag -> licence of its weights, as timm records it."""
    cfgs = timm.models.get_arch_pretrained_cfgs(name)
    return {tag.partition(".")[2]: cfg.license or "not stated" for tag, cfg in cfgs.items()}


@main.command("list")
@click.option("--family", "wanted", type=click.Choice(sorted(FAMILIES)), help="Only this family.")
@click.option("--edit", "edit_name", type=click.Choice(sorted(EDITS)), help="Only variants with this edit.")
@click.option("--license", "licence", default=None, help="Only variants with a tag of this licence.")
@as_json
def list_command(wanted: str | None, edit_name: str | None, licence: str | None, as_json: bool) -> None:
    """List the variants."""
    found: list[dict[str, Any]] = []
    for variant in VARIANTS.values():
        has = {edit.name for edit in parse(variant.edits)}
        tags = licences(variant.name)
        if (
            (edit_name in (None, *has))
            and (licence in (None, *tags.values()))
            and wanted in (None, family(variant.base))
        ):
            found.append({"name": variant.name, "base": variant.base, "edits": list(variant.edits), "tags": tags})
    if as_json:
        return print_json(found)
    columns = ("name", "base", "edits", "tags", "licences")
    rows = [(v["name"], v["base"], ", ".join(v["edits"]) or "-", len(v["tags"]), _licences(v["tags"])) for v in found]
    return table(columns, rows)


def _licences(tags: dict[str, str]) -> str:
    return ", ".join(sorted(set(tags.values()))) or "-"


@main.command()
@click.argument("name")
@edits_option
@as_json
def info(name: str, edits: str | None, as_json: bool) -> None:
    """Show what NAME costs and gives: parameters, GMACs, levels, tags and edits."""
    facts = describe(known(name), edits=edits)
    variant = VARIANTS.get(name.partition(".")[0])
    used = [*parse(variant.edits if variant else ()), *parse(edits)]
    about = [{"edit": str(edit), "exact": edit.exact, "evidence": edit.evidence} for edit in used]
    if as_json:
        return print_json({"name": name, **asdict(facts), "tags": licences(name), "edits": about})
    size = "x".join(map(str, facts.input_size))
    click.echo(f"{name}: {facts.params / 1e6:.2f}M parameters, {facts.gmacs:.2f} GMACs at {size}")
    table(("level", "channels", "stride", "module"), [(v.index, v.channels, v.stride, v.module) for v in facts.levels])
    table(("tag", "licence"), licences(name).items())
    if about:
        table(("edit", "exact in", "evidence"), [tuple(item.values()) for item in about])
    return None


@main.command("edits")
@click.option("--family", "wanted", type=click.Choice(sorted(FAMILIES)), help="Only those for this family.")
@as_json
def edits_command(wanted: str | None, as_json: bool) -> None:
    """List the edits."""
    keys = ("example", "families", "exact", "evidence")
    found = [{key: getattr(cls, key) for key in keys} for cls in list_edits(wanted)]
    if as_json:
        return print_json(found)
    rows = [(item["example"], ", ".join(item["families"]), item["exact"], item["evidence"]) for item in found]
    return table(("edit", "families", "exact in", "evidence"), rows)


@main.command()
@click.argument("name")
@click.option("--image", required=True, type=click.Path(exists=True, dir_okay=False), help="A photo.")
@click.option("--size", default=224, show_default=True, help="Side in pixels that the photo is scaled to.")
@click.option("--output", type=click.Path(dir_okay=False), help="The picture; NAME-features.png by default.")
@click.option("--overwrite", is_flag=True, help="Replace the picture if it exists.")
@edits_option
@pretrained_option
@as_json
def features(
    name: str,
    image: str,
    size: int,
    output: str | None,
    overwrite: bool,
    edits: str | None,
    pretrained: bool,
    as_json: bool,
) -> None:
    """Run a photo through NAME and draw its feature maps."""
    from .viz import feature_maps, load_photo

    picture = Path(output or f"{name.replace(':', '-').replace('/', '-')}-features.png")
    if picture.exists() and not overwrite:
        raise FileExistsError(f"{picture} exists; choose another --output, or --overwrite it")
    model = create(name, features_only=True, edits=edits, pretrained=pretrained)
    with torch.inference_mode():
        maps = model(load_photo(image, model, size))
    strides = model.feature_info.reduction()
    feature_maps(maps, strides, image, picture, title=f"{name} ({'pretrained' if pretrained else 'random weights'})")
    levels = [(i, m.shape[1], stride, f"{m.shape[2]}x{m.shape[3]}") for i, (m, stride) in enumerate(zip(maps, strides))]
    columns = ("level", "channels", "stride", "size")
    if as_json:
        return print_json({"picture": str(picture), "levels": [dict(zip(columns, level)) for level in levels]})
    table(columns, levels)
    return click.echo(f"wrote {picture}")


@main.command("save")
@click.argument("name")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace a model that is there already.")
@edits_option
@pretrained_option
def save_command(name: str, folder: str, overwrite: bool, edits: str | None, pretrained: bool) -> None:
    """Save model NAME to FOLDER: weights, config, fingerprint and card."""
    saved = save(create(name, edits=edits, pretrained=pretrained), folder, overwrite=overwrite)
    click.echo(f"saved {saved}")


@main.command()
@click.argument("source")
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--create-pr", is_flag=True, help="Open a pull request.")
@click.option("--message", default=None, help="Commit message.")
@click.option("--revision", default=None, help="Branch to commit to.")
@edits_option
@pretrained_option
@token_option
@as_json
def push(
    source: str, repo: str, edits: str | None, pretrained: bool, as_json: bool, message: str | None, **options: Any
) -> None:
    """Push SOURCE, a saved folder or the name of a model, to REPO on the Hub."""
    folder = Path(source.removeprefix("local-dir:"))
    model = folder if folder.is_dir() else create(source, edits=edits, pretrained=pretrained)
    commit = push_to_hub(model, repo, commit_message=message, **options)
    if as_json:
        return print_json({"repo": repo, "commit": commit.oid, "url": commit.commit_url, "pull_request": commit.pr_url})
    return click.echo(f"pushed {repo}@{commit.oid}\n{commit.pr_url or commit.commit_url}")


@main.command("pull")
@click.argument("repo")
@revision_option
@token_option
@as_json
def pull_command(repo: str, as_json: bool, **options: Any) -> None:
    """Download REPO, check it, and print the folder."""
    folder = pull(repo, **options)
    return print_json({"repo": repo, "folder": str(folder)}) if as_json else click.echo(folder)


@main.command("verify")
@click.argument("source")
@revision_option
@token_option
@as_json
@click.pass_context
def verify_command(ctx: click.Context, source: str, as_json: bool, **options: Any) -> None:
    """Check that SOURCE, a repo or a folder, computes what it did when it was saved."""
    report = verify(source, **options)
    if as_json:
        print_json({"same": report.same, **asdict(report)})
    else:
        table(("output", "relative difference"), [(name, f"{value:.1e}") for name, value in report.levels.items()])
        click.echo(report)
    ctx.exit(0 if report.same else FAILED)


@main.group()
def hub() -> None:
    """A Hub on this machine."""


@hub.command()
@click.argument("root", type=click.Path(file_okay=False))
@click.option("--port", default=5000, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--allow-remote", is_flag=True, help="Listen on an address that other machines reach; needs --token.")
@click.option("--token", "tokens", multiple=True, metavar="TOKEN=USER[:read]", help="Who may do what; may repeat.")
def serve(root: str, port: int, host: str, allow_remote: bool, tokens: Sequence[str]) -> None:
    """Serve the Hub that is kept in folder ROOT, until interrupted."""
    click.echo(f"HF_ENDPOINT=http://{host}:{port} HF_HUB_DISABLE_XET=1 is what clients need", err=True)
    serve_hub(root, host=host, port=port, allow_remote=allow_remote, tokens=dict(map(parse_token, tokens)))


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: Sequence[str]) -> None:
    """Run a script (script.py ARGS, or -m module ARGS) with our models registered."""
    run_script(list(command))


@main.command()
@click.option("--output", default="demo-out", show_default=True, type=click.Path(file_okay=False))
@click.option("--repo", default=None, help="you/name on the real Hub, instead of a local one.")
@click.option("--epochs", default=12, show_default=True, help="Epochs on the digits.")
def demo(output: str, repo: str | None, epochs: int) -> None:
    """Show the main job end to end, in a few minutes: extend, train, share, verify."""
    from .demo import run_demo

    run_demo(Path(output), repo=repo, epochs=epochs)


if __name__ == "__main__":
    main()
