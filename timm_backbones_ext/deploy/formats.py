"""Files for other runtimes: ONNX, OpenVINO IR, ncnn and torch.export's own, each by its own well-kept exporter."""

import io
import json
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import BackboneError
from .exported import Plain, with_torchvision_layers

__all__ = ["FORMATS", "OPSET", "Example", "require_opset", "write"]

OPSET = 20
OLDEST_OPSET = 19
"""DeformConv exists since opset 19; exporters write a broken file for an older one without a word."""


@dataclass(frozen=True)
class Example:
    """Images to export with."""

    image: Tensor
    """(N, C, H, W)"""
    dynamic: bool
    """Whether other batches and sides are to work."""

    def batch(self) -> Tensor:
        """Images for exporters that take a batch of one for a constant."""
        return self.image.expand(max(2, len(self.image)), -1, -1, -1) if self.dynamic else self.image

    def other(self) -> Tensor:
        """Images of another batch and other sides, for exporters that find out by two examples what may change."""
        batch, _, height, width = self.image.shape
        return self.image.new_zeros(batch + 1, self.image.shape[1], height + 32, width + 64)


def require_opset(opset: int) -> None:
    """Raise ValueError for an opset that lacks an operator of ours."""
    if opset < OLDEST_OPSET:
        raise ValueError(f"expected opset {OLDEST_OPSET} or newer, since DeformConv exists since then; got {opset}")


def write(
    plain: Plain, example: Example, folder: Path, stem: str, kind: str, facts: dict[str, Any], opset: int = OPSET
) -> list[Path]:
    """Write a model to a folder in one format.

    Returns:
        The files.

    Raises:
        BackboneError: The exporter has no mapping for an operator; the message names it.
        OSError: The folder cannot be written to.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # exporters talk about themselves
        try:
            FORMATS[kind](plain, example, folder / stem, facts, opset)
        except (OSError, ImportError, BackboneError):
            raise
        except Exception as error:  # each exporter has its own
            raise BackboneError(f"{kind} has no mapping for {_operator(error)}; choose another format") from error
    return sorted(folder.glob(f"{stem}.*"))


def _operator(error: Exception) -> str:
    """The operator that an exporter complains about, else the first line of what it says."""
    text = f"{error} {error.__cause__ or ''}"
    found = re.search(r"\b(aten|torchvision|prims|mkldnn|quantized)(::|\.)([\w.]+)", text)
    return f"the operator {found.group(0)}" if found else f"this model: {str(error).strip().splitlines()[0][:200]}"


def _onnx(plain: Plain, example: Example, path: Path, facts: dict[str, Any], opset: int) -> None:
    require_opset(opset)
    program = torch.onnx.export(
        plain.graph,
        (example.batch(),),
        dynamo=True,
        opset_version=opset,
        input_names=["image"],
        output_names=plain.names,
        dynamic_shapes=_dynamic_shapes(example),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update({key: _text(value) for key, value in facts.items()})
    program.save(f"{path}.onnx")


def _dynamic_shapes(example: Example) -> Any:
    """torch.export's word for what may change."""
    if not example.dynamic:
        return None
    auto = torch.export.Dim.DYNAMIC
    return ({0: auto, 2: auto, 3: auto},)


def _pt2(plain: Plain, example: Example, path: Path, facts: dict[str, Any], opset: int) -> None:
    program = torch.export.export(plain.graph, (example.batch(),), dynamic_shapes=_dynamic_shapes(example))
    content = io.BytesIO()  # torch aborts the process if it runs out of space while it writes a file
    torch.export.save(program, content, extra_files={"facts.json": json.dumps(facts)})
    Path(f"{path}.pt2").write_bytes(content.getbuffer())


def _openvino(plain: Plain, example: Example, path: Path, facts: dict[str, Any], opset: int) -> None:
    import openvino

    shape = [-1, example.image.shape[1], -1, -1] if example.dynamic else list(example.image.shape)
    model = openvino.convert_model(plain.graph, example_input=example.image, input=openvino.PartialShape(shape))
    model.inputs[0].set_names({"image"})
    for output, name in zip(model.outputs, plain.names, strict=True):
        output.set_names({name})
    for key, value in facts.items():
        model.set_rt_info(_text(value), ["timm_backbones_ext", key])
    try:
        openvino.save_model(model, f"{path}.xml", compress_to_fp16=False)
    except RuntimeError as error:  # of C++ streams, which do not say why
        raise OSError(
            f"OpenVINO cannot write to {path.parent} ({error}); free space, or choose another folder"
        ) from error


def _ncnn(plain: Plain, example: Example, path: Path, facts: dict[str, Any], opset: int) -> None:
    import ncnn
    import pnnx

    graph = with_torchvision_layers(plain.graph)
    image, other = example.image[:1], example.other()[:1]
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch, "model.pt")
        content = io.BytesIO()  # as for a .pt2
        torch.jit.save(torch.jit.trace(graph, image, check_trace=False), content)
        traced.write_bytes(content.getbuffer())
        files = {"ncnnparam": f"{path}.ncnn.param", "ncnnbin": f"{path}.ncnn.bin", "fp16": 0}
        shapes = {"inputshape": _shape(image), **({"inputshape2": _shape(other)} if example.dynamic else {})}
        command = [pnnx.EXEC_PATH, str(traced), *(f"{key}={value}" for key, value in {**shapes, **files}.items())]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode or not Path(f"{path}.ncnn.param").is_file():
        raise BackboneError(f"pnnx failed: {done.stderr.strip()[-300:]}")
    _require_layers(Path(f"{path}.ncnn.param"), ncnn.layer_to_index)  # ty: ignore[missing-attribute] a compiled module
    Path(f"{path}.ncnn.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _require_layers(param: Path, index: Callable[[str], int]) -> None:
    """Raise BackboneError if a file names layers that ncnn lacks."""
    lines = param.read_text(encoding="utf-8").splitlines()[2:]
    if unknown := sorted({line.split()[0] for line in lines if index(line.split()[0]) < 0}):
        raise BackboneError(f"ncnn has no layer for {', '.join(unknown)}; choose another format")


def _shape(image: Tensor) -> str:
    return f"[{','.join(map(str, image.shape))}]f32"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


FORMATS: dict[str, Callable[[Plain, Example, Path, dict[str, Any], int], None]] = {
    "onnx": _onnx,
    "pt2": _pt2,
    "openvino": _openvino,
    "ncnn": _ncnn,
}
"""What writes each format."""
