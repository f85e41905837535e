"""Cells of the benchmark: one model at one size, its contenders timed in turn."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..._types import Model
from ...catalog.description import multiply_adds
from ...deploy.machine import machine
from ...deploy.measuring import Timing, interleaved, rounds_for
from .ceiling import ceiling
from .contenders import Contender, Field

__all__ = ["Load", "bench", "best", "surroundings"]

PACKAGES = ("timm-backbones-ext", "timm", "torch", "torchvision", "onnxruntime", "openvino", "ncnn", "pnnx", "MNN")

TOO_SLOW = 4.0
"""A contender that takes so many times as long as the first one is not measured further."""


@dataclass(frozen=True)
class Load:
    """What is asked of a model."""

    sizes: tuple[int, ...] = (224,)
    """Sides of the square images, in pixels."""
    batch: int = 1
    threads: int = 1
    dtypes: tuple[str, ...] = ("float32",)
    """Of our own contenders."""
    seconds: float = 10.0
    """Time to spend on measuring each size."""


def bench(
    model: Model, load: Load, against: Sequence[str], limits: dict[str, float], say: Callable[[str], None] = print
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Measure a model at each size.

    Args:
        model: A timm model or a `features_only` model, in eval mode on the CPU.
        load: Sizes, batch, threads, dtypes, time.
        against: Names of `contenders.AGAINST`; "timm" comes first and is what the others are compared with.
        limits: What `ceiling` gives; a contender's share is its speed over that of a matrix product of its dtype.
        say: Called with a few words while contenders are made.

    Yields:
        Each size, and for JSON: the number of rounds, the load of the machine, 1e9 multiply-adds, and by contender the
        median in ms, its quartiles, how many times faster than the first it is, with the quartiles, whether that is a
        difference, its error and its share of the ceiling; and why others were left out.
    """
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(load.batch, model.in_chans, side, side, generator=generator) for side in load.sizes]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        field = Field(model, images, Path(scratch), load.threads)
        made: list[Contender] = []
        left_out: list[str] = []
        for found in field.contenders(sorted(against, key="timm".__ne__), load.dtypes):
            if isinstance(found, Contender):
                made.append(found)
                say(f"{found.name} is ready")
            else:
                left_out.append(found)
                say(found)
        for side, image in zip(load.sizes, images, strict=True):
            work = multiply_adds(model, tuple(image.shape)) / 1e9
            calls, slow = _quick({each.name: partial(each.run, image.numpy()) for each in made})
            timings = interleaved(calls, rounds_for(calls, load.seconds)) if calls else {}
            rows = {each.name: _row(each, timings[each.name], work, limits) for each in made if each.name in calls}
            yield (
                side,
                {
                    "batch": load.batch,
                    "threads": load.threads,
                    "load": round(os.getloadavg()[0], 1),
                    "gmacs": round(work, 3),
                    "contenders": rows,
                    "left_out": left_out + slow,
                },
            )


def _quick(calls: dict[str, Callable[[], Any]]) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """The calls that take at most so many times as long as the first one; a word on each of the others."""
    took = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        took[name] = time.perf_counter() - start
    first = next(iter(took.values()), 0.0)
    slow = {name: seconds / first for name, seconds in took.items() if seconds > TOO_SLOW * first}
    words = [
        f"{name}: left out, about {times:.0f} times slower than {next(iter(took))}" for name, times in slow.items()
    ]
    return {name: call for name, call in calls.items() if name not in slow}, words


def _row(contender: Contender, timing: Timing, work: float, limits: dict[str, float]) -> dict[str, Any]:
    facts = timing.as_json()
    share = 2 * work / timing.median / limits[contender.dtype] if contender.dtype in limits else None
    return {
        "ms": float(f"{1e3 * timing.median:.4g}"),
        "quartiles_ms": [float(f"{1e3 * each:.4g}") for each in (timing.low, timing.high)],
        **{key: facts[key] for key in ("times_faster", "spread", "rounds", "no_difference")},
        "error": float(f"{contender.error:.1e}"),
        "share": share and round(share, 3),
        "ours": contender.ours,
        "dtype": contender.dtype,
    }


def best(cell: dict[str, Any], *, ours: bool, dtype: str = "float32") -> str | None:
    """The name of the fastest contender of ours, or of the fastest peer; None if there is none."""
    rows = {name: row for name, row in cell["contenders"].items() if (row["ours"], row["dtype"]) == (ours, dtype)}
    return min(rows, key=lambda name: rows[name]["ms"], default=None)


def surroundings(threads: int, seconds: float = 0.5) -> dict[str, Any]:
    """The machine with its ceiling, and the versions of what is compared; for JSON."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except ModuleNotFoundError:
            continue
    return {"machine": {**machine(), "ceiling": ceiling(threads, seconds)}, "versions": versions}
