"""The commands of `timm-ext` that make a model ready to serve: deploy, export."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import print_json
from ..names import create
from .convert import load_weights, weights_option
from .options import as_json, edits_option, numbers, overwrite_option, pretrained_option
from .verb import verb

if TYPE_CHECKING:
    from .._types import Model

__all__ = ["COMMANDS"]

NAMES = ("auto", "eager", "compile", "onnxruntime", "openvino", "ncnn")
"""Those of `deploy/runtimes`, which imports numpy."""
PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
OPTIONS = (
    click.option("--example", default=None, help="Photo to check and to measure with."),
    click.option("--static", is_flag=True, help="For the example's size alone."),
    click.option("--features", is_flag=True, help="The feature maps instead of the classifier."),
    click.option("--levels", default=None, callback=numbers, help="Of the feature maps: 1,2,3,4."),
    overwrite_option,
    weights_option,
    edits_option,
    pretrained_option,
    as_json,
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both commands: which model, for which images."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@verb(
    "deploy",
    examples=[
        "timm-ext deploy ext_resnet50 served --pretrained --example photo.jpg",
        "timm-ext deploy FOLDER served --dtype int8 --calibration PHOTOS",
    ],
)
@click.argument("source")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--runtime", default="auto", show_default=True, type=click.Choice(NAMES), help="How to run it.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "int8"]))
@click.option("--calibration", default=None, help="For int8: a folder of photos like those that will come.")
@click.option("--agreement", default=0.95, show_default=True, help="For int8: the least agreement with float32.")
@click.option("--threads", default=None, type=click.IntRange(1), help="Threads; all cores by default.")
@click.option("--seconds", default=4.0, show_default=True, help="Time to spend on measuring.")
@model_options
def deploy_command(
    source: str,
    folder: str,
    runtime: str,
    dtype: str,
    calibration: str | None,
    agreement: float,
    threads: int | None,
    seconds: float,
    example: str | None,
    static: bool,
    overwrite: bool,
    as_json: bool,
    **made: Any,
) -> None:
    """Deploy SOURCE, the name of a model or a saved folder, to FOLDER, which `deploy.load` reads without torch."""
    from ..deploy.making import deploy_model, random_image

    model = _model(source, quiet=as_json, **made)
    image = random_image(model) if example is None else example
    options: dict[str, Any] = {"dtype": dtype, "dynamic": not static, "threads": threads, "seconds": seconds}
    if dtype == "int8":
        options |= {"calibration": _photos(calibration), "agreement": agreement}
    deployed = deploy_model(model, image, runtime, **options, quiet=as_json)
    deployed.save(folder, overwrite=overwrite)
    if as_json:
        return print_json({key: value for key, value in deployed.facts.items() if key != "labels"})
    facts = deployed.facts
    agreed = f", {facts['agreement_is']} agreement {facts['agreement']:.3f}" if dtype == "int8" else ""
    return click.echo(f"{folder}: {facts['runtime']}, {facts['error']:.1e} from the model{agreed}")


def _photos(folder: str | None) -> list[Path]:
    """The files of a folder of photos.

    Raises:
        ValueError: No folder is given, or it is empty.
    """
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"int8 needs a folder of photos: --calibration FOLDER; got {folder}")
    found = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PHOTOS)
    if not found:
        raise ValueError(f"{folder} holds no photos; expected files that end in {', '.join(PHOTOS)}")
    return found


@verb("export", examples=["timm-ext export ext_resnet50 model.onnx --pretrained"])
@click.argument("source")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--opset", default=20, show_default=True, help="Of ONNX; 19 or newer.")
@model_options
def export_command(
    source: str, file: str, opset: int, example: str | None, static: bool, overwrite: bool, as_json: bool, **made: Any
) -> None:
    """Write SOURCE, the name of a model or a saved folder, to FILE: .onnx, .pt2, .xml (OpenVINO) or .ncnn.param."""
    from ..deploy.exporting import export

    model = _model(source, quiet=as_json, **made)
    files = export(model, file, example, dynamic=not static, opset=opset, overwrite=overwrite)
    if as_json:
        return print_json({"files": list(map(str, files))})
    return click.echo("\n".join(map(str, files)))


def _model(
    source: str, *, weights: str | None, features: bool, levels: list[int] | None, quiet: bool, **made: Any
) -> "Model":
    """The model that a command names, with its weights; its feature maps if they are asked for."""
    from ..features import wrap

    model = create(source, **made)
    if weights:
        load_weights(model, weights, quiet=quiet)
    return wrap(model, "list", levels).eval() if features or levels else model.eval()


COMMANDS: tuple[Any, ...] = (deploy_command, export_command)
