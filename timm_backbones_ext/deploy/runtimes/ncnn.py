"""ncnn: https://github.com/Tencent/ncnn. It takes one image at a time; a batch is a loop."""

from pathlib import Path

import numpy as np

from .base import Options, Run, Runtime

__all__ = ["RUNTIME"]

HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
"""Options that would round to 16 bits."""


class Ncnn(Runtime):
    """Runs `model.ncnn.param` and `model.ncnn.bin` in float32."""

    name = "ncnn"
    runs, makes, extra = ("ncnn",), ("pnnx",), "ncnn"
    format = "ncnn"
    ways = ("", "use_winograd63_convolution", "use_winograd_convolution")
    """Without F(6, 3), which rounds most, then without all of Winograd's algorithms."""

    def load(self, folder: Path, options: Options) -> Run:
        """A net; each image gets an extractor of its own."""
        import ncnn

        net = ncnn.Net()  # ty: ignore[missing-attribute] a compiled module
        net.opt.num_threads = options.threads
        net.opt.use_vulkan_compute = False
        for name in (*HALF, *filter(None, [self.ways[options.way]])):
            setattr(net.opt, name, False)
        files = ((net.load_param, "model.ncnn.param"), (net.load_model, "model.ncnn.bin"))
        for read, name in files:
            if read(str(folder / name)):
                raise ValueError(f"{name} is damaged, or has a layer that ncnn lacks")

        names = sorted(net.output_names(), key=lambda name: int(name.removeprefix("out")))  # it has them in any order

        def one(x: np.ndarray) -> list[np.ndarray]:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(np.ascontiguousarray(x)).clone())  # ty: ignore[missing-attribute]
            found = [extractor.extract(name) for name in names]
            if failed := [code for code, _ in found if code]:
                raise RuntimeError(f"ncnn failed with code {failed[0]}")
            return [np.array(out) for _, out in found]

        return lambda x: [np.stack(outputs) for outputs in zip(*map(one, x), strict=True)]


RUNTIME = Ncnn()
