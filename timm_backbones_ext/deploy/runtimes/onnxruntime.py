"""ONNX Runtime: https://onnxruntime.ai."""

from pathlib import Path

import numpy as np

from .base import Options, Run, Runtime

__all__ = ["RUNTIME"]


class OnnxRuntime(Runtime):
    """Runs `model.onnx` on the CPU."""

    name = "onnxruntime"
    runs, makes, extra = ("onnxruntime",), ("onnx", "onnxscript"), "onnx"
    format = "onnx"

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
