"""How a request becomes a call: the host, the user and the rights first, then a body within its limit, then work."""

import contextlib
import errno
import json
import secrets
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.concurrency import run_in_threadpool as in_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import User
from .names import Refused

__all__ = ["Asked", "Call", "Door", "chunks", "endpoint", "in_thread", "refusal", "route"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Asked:
    """A JSON object that a client sent; an entry of another type than expected is Refused."""

    def __init__(self, entries: Any) -> None:
        if not isinstance(entries, dict):
            raise Refused(400, "BadRequest", f"expected a JSON object; got {type(entries).__name__}")
        self.entries = entries

    @classmethod
    def read(cls, text: bytes) -> "Asked":
        """Read JSON."""
        try:
            return cls(json.loads(text or b"{}"))
        except (ValueError, RecursionError) as error:
            raise Refused(400, "BadRequest", f"expected a JSON object; {error}") from error

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """An entry of a type; required if there is no default."""
        value = default if (value := self.entries.get(key)) is None else value
        if type(value) is not kind:
            raise Refused(400, "BadRequest", f"{key!r}: expected {kind.__name__}; got {type(value).__name__}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string that can be stored: JSON has halves of letters."""
        value: str = self.get(key, str, default)
        with contextlib.suppress(UnicodeEncodeError):
            return value.encode().decode()
        raise Refused(400, "BadRequest", f"{key!r} is not Unicode text")

    def objects(self, key: str) -> list["Asked"]:
        """A list of objects."""
        return [Asked(item) for item in self.get(key, list)]


@dataclass
class Call:
    """A request, and what is found out about it before the work begins."""

    request: Request
    user: User | None = None
    repo: str = ""
    body: bytes = b""
    folder: str = ""
    """Of an upload by Xet."""

    @property
    def name(self) -> str:
        """Name of the user."""
        return self.user.name if self.user else ""

    @property
    def asked(self) -> Asked:
        """The body as a JSON object."""
        return Asked.read(self.body)

    @property
    def query(self) -> Any:
        """The query of the URL."""
        return self.request.query_params

    def must_own(self, repo: str) -> None:
        """Refuse users of other namespaces."""
        if self.user is None or not (self.user.writes and self.user.owns(repo)):
            raise Refused(403, "Forbidden", f"{self.name or 'a stranger'} may not write to {repo}")

    def part(self, name: str) -> str:
        """A part of the path, decoded."""
        with contextlib.suppress(UnicodeDecodeError):
            return unquote(self.request.path_params.get(name, ""), errors="strict")
        raise Refused(400, "BadRequest", "the path is not UTF-8")


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body, as it arrives; Refused if it is longer than its limit."""
    length = request.headers.get("content-length", "0")
    left = limit - (int(length) if length.isdecimal() and len(length) < 16 else limit + 1)
    if left >= 0:
        left = limit
        async for chunk in request.stream():
            if (left := left - len(chunk)) < 0:
                break
            yield chunk
    if left < 0:
        raise Refused(413, "PayloadTooLarge", f"expected at most {limit} bytes", Connection="close")


def route(method: str, path: str, check: Callable[[Call], None], work: Callable[[Call], Response], limit: int) -> Route:
    """A route whose caller is checked before its body is read; both the check and the work run in a thread."""

    async def answer(request: Request) -> Response:
        call = Call(request)
        await in_thread(check, call)
        call.body = b"".join([chunk async for chunk in chunks(request, limit)]) if limit else b""
        return await in_thread(work, call)

    return Route(path, endpoint(answer), methods=[method])


def endpoint(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that turns errors into answers; a full disk is status 507."""

    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except Refused as error:
            return refusal(error)
        except HTTPException as error:  # FileResponse refuses ranges
            return refusal(Refused(error.status_code, "BadRequest", error.detail))
        except ClientDisconnect:
            return Response(status_code=400)
        except (OSError, sqlite3.OperationalError) as error:
            if getattr(error, "errno", 0) in FULL or "disk is full" in str(error):
                return refusal(Refused(507, "InsufficientStorage", "the disk of this Hub is full; nothing was stored"))
            raise

    return guarded


def refusal(error: Refused) -> Response:
    """The answer for what is refused."""
    said = {"X-Error-Code": error.code, "X-Error-Message": str(error).encode("unicode_escape").decode()}
    return JSONResponse({"error": str(error)}, error.status, headers={**said, **error.headers})


class Door:
    """Lets requests in whose Host is one of this server, so that no web page can reach it under a name of its own.

    Addresses are let in: a page that is to be taken for this server needs a name. Paths are routed as they were sent,
    since a branch may hold an encoded slash.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = dict(scope["headers"])
        known = self.knows(headers.get(b"host", b"").decode("latin-1"))
        number = headers.get(b"x-request-id", b"")[:64] or secrets.token_hex(8).encode()

        async def numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                fixed = [(b"x-request-id", number), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *fixed]}
            await send(message)

        said = "this Hub was not started for that name; see --public-url"
        app = self.app if known else refusal(Refused(421, "MisdirectedRequest", said))
        await app({**scope, "path": scope["raw_path"].decode("ascii", "replace")}, receive, numbered)

    def knows(self, netloc: str) -> bool:
        """Whether a Host header names this server."""
        with contextlib.suppress(ValueError):
            host = urlsplit(f"//{netloc}").hostname or ""
            return host.lower() in self.hosts or bool(ip_address(host))
        return False
