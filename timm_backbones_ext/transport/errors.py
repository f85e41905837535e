"""Turn errors of the Hub client into errors that say what to do."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import errors

from ..errors import HubError

__all__ = ["HubError", "TransportError", "UnreadableAnswer", "explained", "readable", "tried"]

TransportError: Any = next(item for item in errors.HfHubHTTPError.__mro__ if item.__name__ == "HTTPError")
"""Base class of the errors of the client's HTTP library, which depends on the client's version."""


class UnreadableAnswer(HubError):
    """The server's answer is not valid for the Hub's interface."""


@contextmanager
def readable() -> Generator[None]:
    """Turn parsing errors (wrong types, missing keys, broken JSON) into an UnreadableAnswer."""
    try:
        yield
    except errors.HFValidationError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UnreadableAnswer(
            f"the Hub's answer cannot be read ({type(error).__name__}: {error}); nothing was loaded"
        ) from error


def _refused(place: str, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    hint = " Run `hf auth login` with a token that may write." if status in (401, 403) else ""
    return f"{place}: the Hub answered {status}: {error.server_message or error}.{hint}{tried(error)}"


MESSAGES: tuple[tuple[Any, Callable[[str, Any], str]], ...] = (
    (UnreadableAnswer, lambda place, error: f"{place}: {error}"),
    (
        errors.HFValidationError,
        lambda place, error: f"{place!r} is not a valid repo id; expected 'owner/name'. {error}",
    ),
    (
        errors.GatedRepoError,
        lambda place, _: f"{place} is gated: ask for access on its page, then run `hf auth login`",
    ),
    (
        errors.RepositoryNotFoundError,
        lambda place, _: f"{place}: no such repo, or a private one. If it is yours, run `hf auth login`",
    ),
    (errors.RevisionNotFoundError, lambda place, _: f"{place}: the repo has no such branch, tag or commit"),
    (
        (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled),
        lambda place, error: f"{place}: {error}. Run `hf auth login`, or go online",
    ),
    (errors.HfHubHTTPError, _refused),
    (
        TransportError,
        lambda place, error: (
            f"{place}: the Hub cannot be reached, or broke off: {error or type(error).__name__}{tried(error)}"
        ),
    ),
)
"""Error class -> its message, the most specific class first."""


@contextmanager
def explained(place: str) -> Generator[None]:
    """Turn the errors of the Hub client into a HubError that names the place."""
    try:
        yield
    except Exception as error:
        for kind, message in MESSAGES:
            if isinstance(error, kind):
                raise HubError(message(place, error)) from error
        if isinstance(error, RuntimeError) and _of_xet(error):
            raise HubError(f"{place}: the upload by Xet broke off: {error}") from error
        raise


def _of_xet(error: RuntimeError) -> bool:
    """Whether an error comes from hf_xet, which has no error class of its own."""
    return not isinstance(error, HubError) and ("hf_xet" in f"{type(error).__module__} {error}" or "Xet" in str(error))


def tried(error: BaseException | None) -> str:
    """The end of a message: how often `persist` tried."""
    return f" ({error.tried})" if hasattr(error, "tried") else ""
