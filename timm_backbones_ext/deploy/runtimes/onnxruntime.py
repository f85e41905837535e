"""ONNX Runtime: https://onnxruntime.ai."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .base import Options, Run, Runtime

__all__ = ["RUNTIME"]


class OnnxRuntime(Runtime):
    """Runs `model.onnx` on the CPU."""

    name = "onnxruntime"
    runs, makes, extra = ("onnxruntime",), ("onnx", "onnxscript"), "onnx"
    format = "onnx"
    dtypes = ("float32", "int8")

    def quantize(self, folder: Path, images: Sequence[np.ndarray]) -> None:
        """By ONNX Runtime's static quantiser: QDQ, weights per channel."""
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Images(CalibrationDataReader):
            """Hands the images out, one by one."""

            left = iter(images)

            def get_next(self) -> Any:  # a dict, or None at the end
                return next(({"image": image} for image in self.left), None)

        file, ready = folder / "model.onnx", folder / "ready.onnx"
        quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
        types: dict[str, Any] = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(str(ready), str(file), Images(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
        ready.unlink()

    def load(self, folder: Path, options: Options) -> Run:
        """A session with so many threads, which sleep between calls."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0" if options.threads > 1 else "1")
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), settings, ["CPUExecutionProvider"])
        image = session.get_inputs()[0].name
        return lambda x: [np.asarray(out) for out in session.run(None, {image: x})]


RUNTIME = OnnxRuntime()
