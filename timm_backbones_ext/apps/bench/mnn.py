"""MNN (https://github.com/alibaba/MNN), a peer. It rounds more than the law of this package allows on large images."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from ...deploy.runtimes import Run
from ...errors import BackboneError

__all__ = ["load"]

CONVERT = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"
"""What MNN's own command `mnnconvert` does, without the log that it sends."""


def load(onnx: Path, outputs: list[str], threads: int) -> Run:
    """The function of an ONNX file, converted.

    Args:
        onnx: The file; its input is called "image".
        outputs: Names of its outputs.
        threads: Threads to use.

    Raises:
        ImportError: MNN is not installed.
        BackboneError: MNN does not convert the file.
    """
    if importlib.util.find_spec("MNN") is None:
        raise ImportError("it is not installed; run: pip install MNN")
    file = onnx.with_suffix(".mnn")
    arguments = ["-f", "ONNX", "--modelFile", str(onnx), "--MNNModel", str(file), "--bizCode", "bench"]
    done = subprocess.run([sys.executable, "-c", CONVERT, *arguments], capture_output=True, text=True, check=False)
    if not file.is_file():
        raise BackboneError(f"MNN does not convert {onnx.name}: {(done.stderr or done.stdout).strip()[-200:]}")
    return _run(file, outputs, threads)


def _run(file: Path, outputs: list[str], threads: int) -> Run:
    expr, nn = (importlib.import_module(f"MNN.{name}") for name in ("expr", "nn"))
    settings = {"backend": "CPU", "precision": "high", "numThread": threads}
    manager = nn.create_runtime_manager((settings,))
    net = nn.load_module_from_file(str(file), ["image"], outputs, runtime_manager=manager)

    def run(x: np.ndarray) -> list[np.ndarray]:
        maps = net.forward([expr.const(x, list(x.shape), expr.NCHW)])
        return [np.array(expr.convert(each, expr.NCHW).read()) for each in maps]

    return run
