"""PyTorch's eager mode: the fused model in float32, the folded one in bfloat16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .base import Options, Run, Runtime

__all__ = ["RUNTIME", "TorchRuntime"]


class TorchRuntime(Runtime):
    """A runtime of torch's. Its folder holds the weights of the model itself; it is fused anew when it is loaded."""

    runs, extra = ("torch", "timm"), "deploy"
    dtypes = ("float32", "bfloat16")

    def graph(self, model: Any, options: Options) -> Callable[..., Any]:
        """What is called with an image and gives a tuple with each map once."""
        raise NotImplementedError

    def of(self, model: Any, options: Options) -> Run:
        """The function of a live model, which stays as it is."""
        import torch

        graph, dtype = self.graph(model, options), getattr(torch, options.dtype)

        @torch.inference_mode()
        def run(x: np.ndarray) -> list[np.ndarray]:
            before = torch.get_num_threads()
            torch.set_num_threads(options.threads)
            try:
                maps = graph(torch.from_numpy(x).to(dtype, memory_format=torch.channels_last))
            finally:
                torch.set_num_threads(before)
            return [each.float().numpy() for each in maps]

        return run

    def load(self, folder: Path, options: Options) -> Run:
        """The function of the model that is saved in a folder."""
        from ..saved import load_model

        return self.of(load_model(folder), options)


class Eager(TorchRuntime):
    """`fuse` for float32; folded norms and channels-last maps for bfloat16."""

    name = "eager"

    def graph(self, model: Any, options: Options) -> Callable[..., Any]:
        """The graph of the fused model."""
        from ..exported import plain_graph
        from ..fusion import fuse
        from ..fusion.graphs import unique_outputs

        if options.dtype != "float32":
            return plain_graph(model, options.dtype).graph
        fused = fuse(model).graph
        unique_outputs(fused)
        return fused


RUNTIME = Eager()
