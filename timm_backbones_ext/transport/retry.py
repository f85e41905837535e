"""Patience with faults that pass: resets, timeouts, and answers that ask to come again."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import TransportError

__all__ = ["PATIENCE", "Patience", "persist"]

T = TypeVar("T")
PASSING = (408, 425, 429, 500, 502, 503, 504)
SAY = logging.getLogger(__name__).info
HOPELESS = ("LocalProtocolError", "TooManyRedirects", "UnsupportedProtocol")


@dataclass
class Patience:
    """How often and how long to try again; the wait doubles each time, and half of it is drawn by lot."""

    attempts: int = 6
    first_wait: float = 0.5
    """Seconds before the second attempt."""
    longest_wait: float = 20.0
    """Seconds; also the longest `Retry-After` that is waited for."""

    def wait(self, failures: int, error: BaseException, what: str = "") -> None:
        """Sleep after so many failures in a row, or raise the last one: it will not pass, or patience is at its end.

        `what` was tried and how far it came; it is added to the error.
        """
        asked = passes(error)
        if asked is None:
            raise error
        if failures >= self.attempts or asked > self.longest_wait:
            asks = f"; it asks to wait {asked:.0f} s" if asked else ""
            vars(error)["tried"] = f"tried {failures} times{what}{asks}"
            raise error
        drawn = min(self.longest_wait, self.first_wait * 2 ** (failures - 1)) * random.uniform(0.5, 1)
        status = getattr(getattr(error, "response", None), "status_code", None)
        answer = f"the Hub answered {status}" if status else f"no answer from the Hub ({type(error).__name__})"
        SAY("%s, trying again in %.1f s (attempt %d of %d)", answer, max(asked, drawn), failures + 1, self.attempts)
        time.sleep(max(asked, drawn))


PATIENCE = Patience()


def passes(error: BaseException) -> float | None:
    """Seconds that the server asks to wait, 0 if it does not say; None for a fault that will not pass by itself."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        if response.status_code not in PASSING:
            return None
        asked = response.headers.get("Retry-After", "")
        return float(asked) if asked.isdigit() else 0.0
    return 0.0 if isinstance(error, TransportError) and type(error).__name__ not in HOPELESS else None


def persist(call: Callable[[], T], patience: Patience | None = None) -> T:
    """Call until it succeeds, fails for good, or patience is at its end; the last error says how often it was tried."""
    patience, failures = patience or PATIENCE, 0
    while True:
        try:
            return call()
        except Exception as error:
            failures += 1
            patience.wait(failures, error)
