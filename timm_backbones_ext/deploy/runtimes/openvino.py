"""OpenVINO: https://docs.openvino.ai."""

import importlib.util
import logging
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from .base import Options, Run, Runtime

__all__ = ["RUNTIME"]

PRECISION = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""OpenVINO's words for what is not quantised."""


class OpenVino(Runtime):
    """Runs `model.xml` on the CPU."""

    name = "openvino"
    runs, extra = ("openvino",), "openvino"
    format = "openvino"
    dtypes = ("float32", "bfloat16", "int8")

    def quantize(self, folder: Path, images: Sequence[np.ndarray]) -> None:
        """By NNCF's post-training quantiser: https://github.com/openvinotoolkit/nncf."""
        if importlib.util.find_spec("nncf") is None:
            raise ImportError("int8 in OpenVINO needs nncf; run: pip install 'timm-backbones-ext[openvino]'")
        import openvino

        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # bars of its own
            import nncf

            nncf.set_log_level(logging.ERROR)
            file, model = folder / "model.xml", openvino.Core().read_model(folder / "model.xml")
            made = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
        ready = folder / "ready"
        ready.mkdir()
        openvino.save_model(made, ready / file.name, compress_to_fp16=False)
        del model, made  # they map the files that are replaced
        for each in ready.iterdir():
            each.replace(folder / each.name)
        ready.rmdir()

    def load(self, folder: Path, options: Options) -> Run:
        """A compiled model and one request."""
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": PRECISION[options.dtype],
            "INFERENCE_NUM_THREADS": options.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)
        request, count = model.create_infer_request(), len(model.outputs)

        def run(x: np.ndarray) -> list[np.ndarray]:
            request.infer([x], share_inputs=True)
            return [request.get_output_tensor(index).data.copy() for index in range(count)]

        return run


RUNTIME = OpenVino()
