"""What a runtime is to the rest: which packages it needs, what it can, and how its file is loaded."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

__all__ = ["Options", "Run", "Runtime"]

Run: TypeAlias = Callable[[np.ndarray], list[np.ndarray]]
"""(N, C, H, W) in float32 -> the outputs in float32."""


@dataclass(frozen=True)
class Options:
    """How a runtime is to work."""

    dtype: str
    """"float32", "bfloat16" or "int8"."""
    dynamic: bool
    """Whether batches and sides may differ from call to call."""
    threads: int
    way: int = 0
    """Which of the runtime's `ways`."""


class Runtime:
    """One runtime. A subclass says what it needs and loads its file."""

    name: ClassVar[str]
    runs: ClassVar[tuple[str, ...]]
    """Modules that running needs."""
    makes: ClassVar[tuple[str, ...]] = ()
    """Further modules that making the file needs."""
    extra: ClassVar[str]
    """Extra of this package that installs all of them."""
    format: ClassVar[str | None] = None
    """Format of its file, as `export` names it; None for a runtime of torch, which keeps the model's weights."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    automatic: ClassVar[bool] = True
    """Whether "auto" tries it."""
    ways: ClassVar[tuple[str, ...]] = ("",)
    """How it can compute, the fastest first; a later one is taken where an earlier one rounds too much."""

    def missing(self, *, making: bool = False) -> list[str]:
        """Modules that are not installed."""
        needed = (*self.runs, *(self.makes if making else ()))
        return [name for name in needed if importlib.util.find_spec(name) is None]

    def require(self, *, making: bool = False) -> None:
        """Raise ImportError if something is not installed; the message says what installs it."""
        if missing := self.missing(making=making):
            raise ImportError(
                f"runtime {self.name!r} needs {', '.join(missing)}; run: pip install 'timm-backbones-ext[{self.extra}]'"
            )

    def quantize(self, folder: Path, images: Sequence[np.ndarray]) -> None:
        """Replace the file in a folder by its form in int8, calibrated with images (1, C, H, W); where it has one."""
        raise NotImplementedError

    def of(self, model: Any, options: Options) -> Run:
        """The function of a live model; runtimes of torch's alone have it."""
        raise NotImplementedError

    def load(self, folder: Path, options: Options) -> Run:
        """The function of the file in a folder."""
        raise NotImplementedError
