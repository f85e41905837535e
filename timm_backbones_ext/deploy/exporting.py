"""`export`: one file for another runtime, checked by running it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._types import Model
from ..errors import BackboneError
from . import formats
from .checking import Reference
from .exported import plain_graph
from .facts import facts_of
from .machine import cores
from .making import STEM, as_example, random_image
from .runtimes import Options, Run, find

__all__ = ["export"]

SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".xml": "openvino", ".param": "ncnn"}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}


def export(
    model: Model,
    path: str | Path,
    example: Any = None,
    *,
    dynamic: bool = True,
    opset: int = formats.OPSET,
    overwrite: bool = False,
) -> list[Path]:
    """Write a model for another runtime, after norms are folded; the file is run and compared with the model.

    The facts of the model (levels, mean, std, size, base, edits, licence, digest) are in the metadata of ONNX and
    OpenVINO files, in `facts.json` inside a `.pt2`, and in a `.ncnn.json` beside ncnn's files.

    Args:
        model: A timm model, a `features_only` model or a `Pyramid`, in eval mode on the CPU. It is not changed.
        path: File to write. Its suffix is the format: `.onnx`, `.pt2`, `.xml` for OpenVINO, `.ncnn.param` for ncnn.
        example: Images (N, C, H, W), or a photo; one random image of the model's size by default.
        dynamic: Whether batches and sides may differ from the example's. Then three sizes are compared.
        opset: Of ONNX; 19 or newer.
        overwrite: Replace files that are there.

    Returns:
        The files; they appear once the check has passed.

    Raises:
        ValueError: Unknown suffix, opset or example, or a model that cannot be folded.
        ImportError: A package is missing; the message names the extra.
        FileExistsError: A file is there and `overwrite` is false.
        BackboneError: The format has no mapping for an operator, or the file computes something else.
    """
    path = Path(path)
    kind = SUFFIXES.get(path.suffix)
    if kind is None:
        raise ValueError(f"expected a file that ends in {', '.join(SUFFIXES)}; got {path.name!r}")
    formats.require_opset(opset)
    if kind in RUNTIMES:
        find(RUNTIMES[kind]).require(making=True)
    stem = path.name.removesuffix(path.suffix).removesuffix(".ncnn")
    plain, facts = plain_graph(model), facts_of(model)
    image = random_image(model) if example is None else as_example(example, facts)
    facts = {**facts, "outputs": {"names": plain.names, **plain.outputs}}
    reference = Reference.around(model, image, plain.outputs["order"], dynamic=dynamic)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".draft-") as scratch:
        files = formats.write(plain, formats.Example(image, dynamic), Path(scratch), STEM, kind, facts, opset)
        _check(kind, Path(scratch), reference, plain.limit, dynamic=dynamic)
        targets = [path.with_name(stem + file.name.removeprefix(STEM)) for file in files]
        if (there := [target for target in targets if target.exists()]) and not overwrite:
            raise FileExistsError(f"{there[0]} exists; choose another file, or overwrite it")
        for file, target in zip(files, targets, strict=True):
            os.replace(file, target)
    return targets


def _check(kind: str, folder: Path, reference: Reference, limit: float, *, dynamic: bool) -> None:
    """Raise BackboneError if a file does not compute what the model computes."""
    runs = _runs(kind, folder, dynamic=dynamic)
    errors = [reference.error(run()) for run in runs]
    if min(errors) > limit:
        raise BackboneError(
            f"the {kind} file changes the maps by {min(errors):.1e}, relative; allowed is {limit:.1e}. "
            "Nothing was written"
        )


def _runs(kind: str, folder: Path, *, dynamic: bool) -> list[Callable[[], Run]]:
    """The ways to run a file."""
    if kind == "pt2":
        return [lambda: _exported_program(folder / f"{STEM}.pt2")]
    runtime = find(RUNTIMES[kind])
    options = [Options("float32", dynamic, cores(), way) for way in range(len(runtime.ways))]
    return [lambda chosen=chosen: runtime.load(folder, chosen) for chosen in options]


def _exported_program(path: Path) -> Run:
    module = torch.export.load(path).module()

    def run(x: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [each.numpy() for each in module(torch.from_numpy(x))]

    return run
