"""The family of `ext_efficientnet`: what each phi costs, and the largest phi within a budget."""

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch

from .._types import Model
from ..models.ext_efficientnet import LARGEST_PHI, compound
from .description import describe

__all__ = ["PUBLISHED", "Budget", "Member", "family", "largest_phi", "latency_ms", "member", "read_budget"]

NAME = "ext_efficientnet"
STEP = 0.01
PUBLISHED = {
    "b0": (1.0, 1.0, 224),
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
    "b5": (1.6, 2.2, 456),
    "b6": (1.8, 2.6, 528),
    "b7": (2.0, 3.1, 600),
}
"""Width factor, depth factor and resolution of the published nets, from the code of https://arxiv.org/abs/1905.11946."""
UNITS = {"G": "gmacs", "M": "params", "ms": "latency"}


@dataclass(frozen=True)
class Budget:
    """The largest cost of a net."""

    kind: str
    """"gmacs" (1e9 multiply-adds per image), "params" (1e6) or "latency" (ms per image on this machine)."""
    limit: float

    def cost(self, phi: float) -> float:
        """The cost of the net of a phi, in the budget's unit."""
        if self.kind == "latency":
            return latency_ms(phi)
        return member(phi).gmacs if self.kind == "gmacs" else _params(phi) / 1e6


@dataclass(frozen=True)
class Member:
    """One net of the family."""

    phi: float
    width: float
    depth: float
    resolution: int
    params: int
    gmacs: float


def read_budget(text: str) -> Budget:
    """Parse a budget: "2.0G" multiply-adds, "12M" parameters or "20ms" per image.

    Raises:
        ValueError: The text is not a budget.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(G|M|ms)", text.strip())
    if not match or not float(match[1]):
        raise ValueError(f"expected a budget such as 2.0G (multiply-adds), 12M (parameters) or 20ms; got {text!r}")
    return Budget(UNITS[match[2]], float(match[1]))


def member(phi: float) -> Member:
    """Figures of the net of a phi, computed without weights."""
    width, depth, resolution = compound(phi)
    facts = describe(NAME, phi=phi)
    return Member(phi, width, depth, resolution, facts.params, facts.gmacs)


def _params(phi: float) -> int:
    """Number of parameters; a function of its own, since counting multiply-adds takes longer."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(NAME, phi=phi).parameters())


def latency_ms(phi: float, runs: int = 5) -> float:
    """Median time of one image through the net, after one run to warm up; with torch's current number of threads."""
    net: Model = timm.create_model(NAME, phi=phi).eval()
    image, times = torch.randn(1, *net.pretrained_cfg["input_size"]), []
    with torch.inference_mode():
        for _ in range(runs + 1):
            begun = time.perf_counter()
            net(image)
            times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def largest_phi(budget: Budget, tried: Callable[[float, float], None] = lambda phi, cost: None) -> float:
    """The largest phi, in steps of 0.01, whose net is within a budget.

    Costs grow with phi, so this is a binary search. With a latency budget, the result varies with the measurement.

    Args:
        budget: See `read_budget`.
        tried: Called after each net with its phi and its cost.

    Raises:
        ValueError: B0, the smallest net, is above the budget.
    """

    def fits(step: int) -> bool:
        cost = budget.cost(round(step * STEP, 2))
        tried(round(step * STEP, 2), cost)
        return cost <= budget.limit

    if not fits(0):
        raise ValueError(f"the smallest net, phi=0, is above the budget of {budget.limit:g} ({budget.kind})")
    low, high = 0, 100
    while high < LARGEST_PHI / STEP and fits(high):  # by whole phi first: nets of a large phi are slow to measure
        low, high = high, high + 100
    if high >= LARGEST_PHI / STEP and fits(round(LARGEST_PHI / STEP)):
        return LARGEST_PHI
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return round(low * STEP, 2)


def family(phi: float) -> list[Member]:
    """The nets of whole phi from 0 on, and that of `phi`."""
    return [member(value) for value in sorted({*map(float, range(int(phi) + 1)), phi})]
