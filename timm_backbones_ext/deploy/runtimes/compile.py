"""`torch.compile` of the folded model."""

from collections.abc import Callable
from typing import Any

from .base import Options
from .eager import TorchRuntime

__all__ = ["RUNTIME"]


class Compile(TorchRuntime):
    """Norms folded, channels-last, compiled by inductor; the first call with a size compiles."""

    name = "compile"
    automatic = False  # inductor compiles for minutes, anew for each process

    def graph(self, model: Any, options: Options) -> Callable[..., Any]:
        """The compiled graph."""
        import torch

        from ..exported import plain_graph

        return torch.compile(plain_graph(model, options.dtype).graph, dynamic=None if options.dynamic else False)


RUNTIME = Compile()
