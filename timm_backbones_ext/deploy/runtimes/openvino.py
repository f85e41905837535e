"""OpenVINO: https://docs.openvino.ai."""

from pathlib import Path

import numpy as np

from .base import Options, Run, Runtime

__all__ = ["RUNTIME"]

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's words."""


class OpenVino(Runtime):
    """Runs `model.xml` on the CPU."""

    name = "openvino"
    runs, extra = ("openvino",), "openvino"
    format = "openvino"
    dtypes = ("float32", "bfloat16")

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
