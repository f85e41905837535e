"""The commands of `timm-ext` that look at models: list, info, edits, features."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import is_terminal, print_json, progress, table
from ..names import carries_weights, create, known, licences, one_of, saved_folder
from .options import (
    announce,
    as_json,
    edits_option,
    family_option,
    numbers,
    overwrite_option,
    pretrained_option,
    require_new,
)
from .verb import verb

if TYPE_CHECKING:
    from ..catalog.listing import Listing
    from ..hub.changes import TensorChange

__all__ = ["COMMANDS"]


@verb(
    "list",
    examples=[
        "timm-ext list --family resnet --edit dcn",
        "timm-ext list --license commercial --json",
        "timm-ext list --html models.html",
    ],
)
@family_option
@click.option("--edit", default=None, help="Only variants with this edit: dcn, ...")
@click.option(
    "--license",
    "licence",
    default=None,
    help="Only variants with a tag of this licence: apache-2.0, ...; or commercial for all that allow such use.",
)
@click.option("--html", "page", type=click.Path(dir_okay=False), help="Write one web page that needs no network.")
@overwrite_option
@as_json
def list_command(page: str | None, overwrite: bool, as_json: bool, **filters: Any) -> None:
    """List the variants."""
    from ..catalog.listing import listings

    found = list(listings(**filters))
    if page:
        return _write_page(Path(page), found, overwrite=overwrite, as_json=as_json)
    if as_json:
        return print_json([asdict(facts) for facts in found])
    if is_terminal():
        return table(("name", "base + edits", "tags", "licences"), map(_short_row, found))
    return table(("name", "base", "edits", "tags", "licences"), map(_row, found))


def _write_page(page: Path, found: Sequence["Listing"], *, overwrite: bool, as_json: bool) -> None:
    from ..catalog.page import render_page, require_library

    require_library()
    require_new(page, overwrite=overwrite)
    with progress(len(found), "model", every=20, err=True) as step:
        text = render_page(found, step=step)
    page.write_text(text, encoding="utf-8")
    facts = {"page": str(page), "models": len(found)}
    return print_json(facts) if as_json else click.echo(f"wrote {page} with {len(found)} models", err=True)


def _row(facts: "Listing") -> tuple[object, ...]:
    edits, found = (", ".join(words) or "-" for words in (facts.edits, sorted(set(facts.tags.values()))))
    return facts.name, facts.base, edits, len(facts.tags), found


def _short_row(facts: "Listing") -> tuple[object, ...]:
    first, others = next(iter(facts.tags.values()), "-"), len(set(facts.tags.values())) - 1
    made = " + ".join((facts.base, *facts.edits))
    return facts.name, made, len(facts.tags), f"{first}, {others} more" if others > 0 else first


@verb("info", examples=["timm-ext info ext_resnet50_dcn.a1_in1k", "timm-ext info resnet50 --json"])
@click.argument("source")
@edits_option
@as_json
def info(source: str, edits: str | None, as_json: bool) -> None:
    """Show what SOURCE costs and gives: parameters, GMACs, levels, tags and edits.

    SOURCE is the name of a model, a saved folder, or a repo on the Hub.
    """
    from ..catalog.description import describe_model
    from ..edits import parse_edits

    announce(source)
    model = create(source, edits=edits, device="meta")
    used = parse_edits(getattr(model, "edits", ()))
    about = [{"edit": str(edit), "exact": edit.exact, "evidence": edit.evidence} for edit in used]
    facts, tags = describe_model(model), licences(known(source))
    base, changes = _changes(source)
    if as_json:
        delta = {"delta": {"base": base, "tensors": [asdict(item) for item in changes]}} if base else {}
        return print_json({"name": source, **asdict(facts), "tags": tags, "edits": about, **delta})
    size = "x".join(map(str, facts.input_size))
    click.echo(f"{source}: {facts.params / 1e6:.2f}M parameters, {facts.gmacs:.2f} GMACs at {size}")
    table(("level", "channels", "stride", "module"), [(v.index, v.channels, v.stride, v.module) for v in facts.levels])
    if tags:
        table(("tag", "licence"), tags.items())
    if about:
        table(("edit", "exact in", "evidence"), [tuple(item.values()) for item in about])
    if base:
        click.echo(f"holds the difference to {base}:")
        table(("tensor", "is", "shape", "norm of the change"), map(_change_row, changes))
    return None


def _changes(source: str) -> tuple[str, list["TensorChange"]]:
    """The base that a saved folder or a repo differs from, and what it changes."""
    from ..hub.changes import tensor_changes

    return tensor_changes(source) if "/" in source or saved_folder(source) else ("", [])


def _change_row(item: "TensorChange") -> tuple[object, ...]:
    shape = "x".join(map(str, item.shape)) or "-"
    return item.name, item.kind, shape, "-" if item.norm is None else f"{item.norm:.1e}"


@verb("edits", examples=["timm-ext edits dcn", "timm-ext edits --base convnext_tiny"])
@click.argument("name", required=False)
@family_option
@click.option(
    "--base", default=None, help="Base to state the costs on; of each family its own by default: resnet50, ..."
)
@as_json
def edits_command(name: str | None, family: str | None, base: str | None, as_json: bool) -> None:
    """List the edits, or the one called NAME: exactness, evidence, and costs on a base."""
    from ..catalog.costs import applicable, cost, named_base
    from ..catalog.measured import measured
    from ..edits import EDITS, list_edits, parse_edits

    one_of("edit", name, EDITS)
    fitting = applicable(known(base)) if base else EDITS.values()
    chosen = [EDITS[key] for key in list_edits(family) if name in (None, key)]
    found = [item for item in chosen if item in fitting]
    if not found:
        raise ValueError(f"no such edit for {base or family}; `timm-ext edits` lists all")
    keys = ("name", "example", "families", "exact", "evidence")
    facts = [
        {key: getattr(item, key) for key in keys}
        | {"measured": measured(item.name)}
        | asdict(cost(edit, base or named_base(edit, family)))
        for item in found
        for edit in parse_edits(item.example)
    ]
    if as_json:
        return print_json(facts)
    table(("edit", "on", "parameters", "GMACs", "time", "merges"), map(_cost_row, facts))
    click.echo()
    rows = [(v["name"], ", ".join(v["families"]), v["exact"], v["evidence"], v["measured"]) for v in facts]
    return table(("edit", "families", "exact in", "published", "measured here"), rows)


def _cost_row(facts: Mapping[str, Any]) -> tuple[object, ...]:
    added = f"{facts['params']:+,}", f"{facts['gmacs']:+.2f}"
    ratio = f"{facts['time_ratio']:.2f}x" if facts["time_ratio"] else "-"
    return facts["example"], facts["base"], *added, ratio, "yes" if facts["merges"] else "no"


@verb("features", examples=["timm-ext features ext_resnet50.a1_in1k --image photo.jpg --pretrained -o maps.png"])
@click.argument("source")
@click.option("--image", required=True, type=click.Path(exists=True, dir_okay=False), help="A photo.")
@click.option(
    "--size", default=224, show_default=True, type=click.IntRange(32, 4096), help="Side in pixels to scale to."
)
@click.option("--levels", callback=numbers, help="Levels to show, as in 0,2,4; all by default.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help=".png, .svg or .pdf; SOURCE-features.png by default."
)
@overwrite_option
@edits_option
@pretrained_option
@as_json
def features(source: str, output: str | None, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Run a photo through SOURCE and draw its feature maps.

    SOURCE is the name of a model, a saved folder, or a repo on the Hub.
    """
    from ..catalog.pictures import feature_maps, load_photo, photo_maps, require_drawable

    picture = Path(output or f"{re.sub('[:/]+', '-', source.strip('./'))}-features.png")
    require_drawable(picture, overwrite=overwrite)
    photo = load_photo(options["image"], options["size"])
    model = _feature_model(source, options["edits"], options["pretrained"])
    maps = photo_maps(model, photo, options["levels"])
    trained = options["pretrained"] or carries_weights(source)
    title = source if trained else f"{source}, random weights (--pretrained loads trained ones)"
    feature_maps(maps, photo, picture, title=title)
    columns = ("level", "channels", "stride", "size")
    rows = [(v.index, len(v.values), v.stride, "x".join(map(str, v.values.shape[1:]))) for v in maps]
    if as_json:
        levels = [dict(zip(columns, row, strict=True)) for row in rows]
        return print_json({"picture": str(picture), "levels": levels})
    table(columns, rows)
    return click.echo(f"wrote {picture}", err=True)


def _feature_model(source: str, edits: str | None, pretrained: bool) -> Any:
    import torch

    torch.manual_seed(0)  # random weights draw the same picture again
    announce(source)
    return create(source, features_only=True, edits=edits, pretrained=pretrained)


COMMANDS: tuple[click.Command, ...] = (list_command, info, edits_command, features)
