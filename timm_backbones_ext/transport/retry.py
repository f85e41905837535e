"""Retry temporary failures: connection resets, timeouts, and answers that ask the client to try again."""

import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import TransportError, readable

__all__ = ["PATIENCE", "Patience", "persist"]

T = TypeVar("T")
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of temporary failures."""
SAY = logging.getLogger(__name__).info
"""Logger of failed attempts; the command line shows its messages."""
HOPELESS = ("LocalProtocolError", "TooManyRedirects", "UnsupportedProtocol")
"""Transport errors that are permanent."""
_SECONDS = re.compile(r"[0-9]{1,9}")


def _first_wait() -> float:
    """Seconds that `TIMM_BACKBONES_EXT_FIRST_WAIT` sets, or 0.5."""
    said = os.environ.get("TIMM_BACKBONES_EXT_FIRST_WAIT", "0.5")
    try:
        return float(said)
    except ValueError as error:
        raise ValueError(f"TIMM_BACKBONES_EXT_FIRST_WAIT: expected seconds, such as 0.5; got {said!r}") from error


@dataclass
class Patience:
    """Number of attempts, and waits between them; the wait doubles each time and half of it is random."""

    attempts: int = 6
    first_wait: float = field(default_factory=_first_wait)
    """Seconds before the second attempt."""
    longest_wait: float = 20.0
    """Seconds; also the longest `Retry-After` that is waited for."""

    def wait(self, failures: int, error: BaseException, what: str = "") -> None:
        """Wait, or re-raise the error if it is permanent or the attempts are used up.

        Args:
            failures: Number of failures in a row.
            error: The last failure.
            what: Text on the attempt and its progress, for the error message.
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
    """Seconds of the answer's `Retry-After`, 0 without one; None for a permanent failure."""
    response: Any = getattr(error, "response", None)
    if response is not None:
        if response.status_code not in PASSING:
            return None
        asked = response.headers.get("Retry-After", "").strip()
        return float(asked) if _SECONDS.fullmatch(asked) else 0.0
    return 0.0 if isinstance(error, TransportError) and type(error).__name__ not in HOPELESS else None


def persist(call: Callable[[], T], patience: Patience | None = None) -> T:
    """Call a function until it succeeds, fails permanently, or attempts are used up; the error has their number.

    Raises:
        UnreadableAnswer: The client cannot parse the server's answer.
    """
    patience, failures = patience or PATIENCE, 0
    while True:
        try:
            with readable():
                return call()
        except Exception as error:
            failures += 1
            patience.wait(failures, error)
