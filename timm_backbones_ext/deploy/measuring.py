"""Candidates timed in turn, A B C A B C, so that other work on the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Timing", "interleaved", "rounds_for"]

LEAST, MOST = 3, 200
"""Rounds, however slow or fast the candidates are."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate over the rounds, and how they compare with those of the first candidate."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    times_faster: float
    """Median over the rounds of: seconds of the first candidate / seconds of this one."""
    spread: tuple[float, float]
    """Quartiles of these ratios."""
    rounds: int

    @property
    def no_difference(self) -> bool:
        """Whether the spread is larger than the difference to the first candidate."""
        return self.spread[0] <= 1 <= self.spread[1]

    def as_json(self) -> dict[str, Any]:
        """The fields, rounded, for JSON."""
        facts = {key: _rounded(value) for key, value in asdict(self).items()}
        return {**facts, "no_difference": self.no_difference}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(each, 3) for each in value]
    return value if isinstance(value, int) else float(f"{value:.4g}")


def rounds_for(calls: Mapping[str, Callable[[], Any]], seconds: float) -> int:
    """How many rounds take so many seconds; each call is made twice to find out, which also warms it up."""
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        call()
    return min(MOST, max(LEAST, int(seconds / (time.perf_counter() - start))))


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, step: Callable[[str], Any] = lambda words: None
) -> dict[str, Timing]:
    """Time each call once a round.

    Args:
        calls: By name, warmed up; the first one is what the others are compared with.
        rounds: How often.
        step: Called after each round, with a few words.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
        step(f"fastest: {min(found, key=lambda name: statistics.median(found[name]))}")
    first = next(iter(found.values()))
    return {name: _timing(first, mine) for name, mine in found.items()}


def _timing(first: list[float], mine: list[float]) -> Timing:
    low, median, high = statistics.quantiles(mine, n=4, method="inclusive")
    slow, ratio, fast = statistics.quantiles([a / b for a, b in zip(first, mine)], n=4, method="inclusive")
    return Timing(median, low, high, ratio, (slow, fast), len(mine))
