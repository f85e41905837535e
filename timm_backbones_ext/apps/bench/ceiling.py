"""What the machine itself can do: matrix products and copies, by PyTorch's own kernels."""

import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["ceiling"]

SIDE, BYTES = 2048, 1 << 28
"""Side of the square matrices, and size of the copied tensor."""


def ceiling(threads: int, seconds: float = 0.5) -> dict[str, float]:
    """Speed of the machine.

    Args:
        threads: Threads to use.
        seconds: Time to spend on each figure; the fastest run counts.

    Returns:
        "float32", "bfloat16" and "int8" in 1e9 multiplications and additions per second, of square matrix products;
        "copy" in 1e9 bytes per second, read and written. What PyTorch cannot compute here is missing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = {name: _product(make, seconds) for name, make in PRODUCTS.items()}
        source = torch.ones(BYTES // 4)
        target = torch.empty_like(source)
        copied = 2 * BYTES / 1e9 / _fastest(lambda: target.copy_(source), seconds)
    finally:
        torch.set_num_threads(before)
    speeds = {**{name: speed for name, speed in found.items() if speed}, "copy": copied}
    return {name: float(f"{speed:.4g}") for name, speed in speeds.items()}


def _floats(dtype: torch.dtype) -> Callable[[], Any]:
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return lambda: a @ b


def _integers() -> Callable[[], Any]:
    a, b = (torch.randint(-128, 128, (SIDE, SIDE), dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b)  # PyTorch's only product of int8 matrices


PRODUCTS: dict[str, Callable[[], Callable[[], Any]]] = {
    "float32": lambda: _floats(torch.float32),
    "bfloat16": lambda: _floats(torch.bfloat16),
    "int8": _integers,
}


def _product(make: Callable[[], Callable[[], Any]], seconds: float) -> float | None:
    """1e9 operations per second of a product; None if PyTorch has none for the type here."""
    try:
        return 2 * SIDE**3 / 1e9 / _fastest(make(), seconds)
    except (RuntimeError, AttributeError):
        return None


def _fastest(call: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of the calls that fit into some time."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
