"""Errors of the Hub client, turned into ones that say what to do."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import errors

from ..errors import HubError

__all__ = ["HubError", "TransportError", "explained"]

TransportError: Any = next(item for item in errors.HfHubHTTPError.__mro__ if item.__name__ == "HTTPError")
"""What the client's HTTP library raises; which library that is depends on the client's version."""


@contextmanager
def explained(place: str) -> Generator[None]:
    """Turn the errors of the Hub client into a HubError that names the place."""
    try:
        yield
    except errors.HFValidationError as error:
        raise HubError(f"{place!r} is no repo id; expected 'owner/name'. {error}") from error
    except errors.GatedRepoError as error:
        raise HubError(f"{place} is gated: ask for access on its page, then run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"{place}: no such repo, or a private one. If it is yours, run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{place}: the repo has no such branch, tag or commit") from error
    except (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise HubError(f"{place}: {error}. Run `hf auth login`, or go online") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = " Run `hf auth login` with a token that may write." if status in (401, 403) else ""
        raise HubError(
            f"{place}: the Hub answered {status}: {error.server_message or error}.{hint}{tried(error)}"
        ) from (error)
    except TransportError as error:
        raise HubError(
            f"{place}: the Hub cannot be reached, or broke off: {error or type(error).__name__}{tried(error)}"
        ) from error
    except RuntimeError as error:  # hf_xet has no class of its own
        if "hf_xet" not in f"{type(error).__module__} {error}" and "Xet" not in str(error):
            raise
        raise HubError(f"{place}: the upload by Xet broke off: {error}") from error


def tried(error: BaseException | None) -> str:
    """What `persist` did before it gave up."""
    return f" ({error.tried})" if hasattr(error, "tried") else ""
