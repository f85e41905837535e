"""The commands of `timm-ext` that change what weights are called or which model they are of: convert, grow."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import print_json, working
from ..names import create, known
from .options import as_json, edits_option, overwrite_option, pretrained_option, require_new
from .verb import verb

if TYPE_CHECKING:
    from .._types import Model

__all__ = ["COMMANDS", "load_weights", "weights_option"]

FORMATS = ("timm", "torchvision", "meta", "meta-detection", "meta-fcmae", "lukemelas", "mmcv")
"""Those of `weights/formats.py`, which imports torch."""
weights_option = click.option(
    "--weights", default=None, help="Weights to load: a file of timm, torchvision, Meta, ..., or package:NAME."
)
from_option = click.option(
    "--from", "source", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True, help="Format of IN."
)


@verb("convert", examples=["timm-ext convert resnet50.pth out.safetensors --to timm --arch resnet50"])
@click.argument("source_file", metavar="IN")
@click.argument("target_file", metavar="OUT", type=click.Path(dir_okay=False))
@click.option("--to", "target", type=click.Choice(FORMATS), required=True, help="Format wanted.")
@click.option("--arch", required=True, help="Architecture: convnext_tiny, ext_resnet50_dcn, ...")
@overwrite_option
@from_option
@as_json
def convert_command(
    source_file: str, target_file: str, target: str, arch: str, overwrite: bool, source: str, as_json: bool
) -> None:
    """Rename the tensors of IN, a file or package:NAME, and write them to OUT as safetensors."""
    from ..weights.checkpoints import convert
    from ..weights.files import write_safetensors
    from ..weights.opening import open_checkpoint
    from ..weights.packages import licence_of

    out = Path(target_file)
    if out.suffix != ".safetensors":
        raise click.UsageError(f"expected OUT to end in .safetensors; got {target_file!r}")
    require_new(out, overwrite=overwrite)
    with working(f"reading {source_file}"):
        opened = open_checkpoint(source_file)
    with working(f"renaming {len(opened.tensors)} tensors"):
        tensors = convert(opened.tensors, source=source, target=target, arch=known(arch))
    licence = licence_of(source_file)
    metadata = {"format": "pt", "names": target, "architecture": arch, **({"license": licence} if licence else {})}
    with working(f"writing {out}"):
        write_safetensors(tensors, out, metadata)
    facts: dict[str, Any] = {"file": str(out), "format": target, "tensors": len(tensors), "license": licence}
    facts["notes"] = list(opened.words)
    if as_json:
        return print_json(facts)
    for word in opened.words:
        click.echo(word, err=True)
    return click.echo(f"{out}: {len(tensors)} tensors in the names of {target}")


def load_weights(model: "Model", weights: str, *, quiet: bool) -> None:
    """Load a file or `package:NAME` into a model, say what was done, and credit the origin in the model's config."""
    from ..weights.checkpoints import load_checkpoint
    from ..weights.packages import credited

    loaded = load_checkpoint(model, weights)
    credited(model, weights)
    if not quiet:
        click.echo(f"{weights}: {loaded}", err=True)


@verb("grow", examples=["timm-ext grow ext_efficientnet_b0.ra_in1k ext_efficientnet_b2 grown --pretrained"])
@click.argument("source")
@click.argument("to")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--seed", default=0, show_default=True, help="Of the new tensors, and of which channels are copied.")
@overwrite_option
@weights_option
@edits_option
@pretrained_option
@as_json
def grow_command(
    source: str, to: str, folder: str, seed: int, overwrite: bool, weights: str | None, as_json: bool, **made: Any
) -> None:
    """Grow SOURCE, the name of a model or a saved folder, to the larger TO; the result computes the same."""
    from ..growth import grow
    from ..saving.folder import save

    known(to)
    if Path(source).is_dir():
        source, made["pretrained"] = f"local-dir:{source}", True
    with working(f"making {source}"):
        model = create(source, **made)
    if weights:
        load_weights(model, weights, quiet=as_json)
    with working(f"growing to {to}, and comparing what the two compute"):
        grown = grow(model, to, seed=seed)
    with working(f"saving {folder}"):
        saved = save(grown, folder, overwrite=overwrite)
    old, new = (sum(p.numel() for p in item.parameters()) for item in (model, grown))
    facts = {"folder": str(saved), "from": source, "to": to, "parameters": [old, new], "seed": seed}
    if as_json:
        return print_json(facts)
    return click.echo(f"{saved}: {to} with {new / 1e6:.2f}M parameters, grown from {source} with {old / 1e6:.2f}M")


COMMANDS: tuple[Any, ...] = (convert_command, grow_command)
