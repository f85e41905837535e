"""The runtimes, one file each, found by name. Those that need no torch import none."""

import importlib

from .base import Options, Run, Runtime

__all__ = ["RUNTIMES", "Options", "Run", "Runtime", "find", "installed"]

RUNTIMES = ("eager", "compile", "onnxruntime", "openvino", "ncnn")


def find(name: str) -> Runtime:
    """The runtime of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in RUNTIMES:
        raise ValueError(f"unknown runtime {name!r}; there is: auto, {', '.join(RUNTIMES)}")
    return importlib.import_module(f".{name}", __name__).RUNTIME


def installed() -> list[Runtime]:
    """The runtimes for which everything is installed that makes and runs their files."""
    return [runtime for runtime in map(find, RUNTIMES) if not runtime.missing(making=True)]
