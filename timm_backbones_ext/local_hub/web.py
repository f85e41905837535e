"""How a request becomes a call: the host, the user and the rights first, then a body within its limit, then work."""

import contextlib
import errno
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from ipaddress import ip_address
from secrets import token_hex
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool as in_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import STRANGER, User
from .names import Refused

__all__ = ["Call", "application", "chunks", "entry", "in_thread", "read", "route"]


def read(text: bytes) -> dict[str, Any]:
    """The JSON object that a client sent."""
    try:
        found = json.loads(text or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(400, "BadRequest", f"expected a JSON object; {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "BadRequest", f"expected a JSON object; got {type(found).__name__}")
    return found


def entry(found: Any, key: str, kind: type = str, default: Any = None) -> Any:
    """An entry of an object, of a type; required if there is no default."""
    value = found.get(key) if isinstance(found, dict) else None
    value = default if value is None else value
    if type(value) is not kind:
        raise Refused(400, "BadRequest", f"{key!r}: expected {kind.__name__}; got {type(value).__name__}")
    return value


class Call(Request):
    """A request, and what is found out about it before the work begins."""

    who: User = STRANGER
    repo = ""
    content = b""
    """The body."""

    @property
    def token(self) -> str:
        """What the client says who it is."""
        return self.headers.get("authorization", "").removeprefix("Bearer ").strip()

    @property
    def asked(self) -> dict[str, Any]:
        """The body as a JSON object."""
        return read(self.content)

    def must_own(self, repo: str) -> None:
        """Refuse users of other namespaces; that a user may write at all is known by then."""
        if not self.who.owns(repo):
            raise Refused(403, "Forbidden", f"{self.who.name or 'a stranger'} may not write to {repo}")

    def part(self, name: str) -> str:
        """A part of the path, decoded."""
        return unquote(self.path_params.get(name, ""), errors="strict")


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body, as it arrives; Refused if it is longer than its limit."""
    too_long = Refused(413, "PayloadTooLarge", f"expected at most {limit} bytes", Connection="close")
    if int(request.headers.get("content-length", 0)) > limit:  # the server has seen to it that it is a number
        raise too_long
    async for chunk in request.stream():
        if (limit := limit - len(chunk)) < 0:
            raise too_long
        yield chunk


def route(method: str, path: str, check: Callable[[Call], Any], work: Callable[[Call], Any], limit: int = 0) -> Route:
    """A route whose caller is checked before its body is read; both the check and the work run in a thread."""

    async def answer(request: Request) -> Response:
        call = Call(request.scope, request.receive)
        await in_thread(check, call)
        call.content = b"".join([chunk async for chunk in chunks(call, limit)]) if limit else b""
        said = await in_thread(work, call)
        return said if isinstance(said, Response) else JSONResponse({} if said is None else said)

    return Route(path, answer, methods=[method])


async def failed(request: Request | None, error: Exception) -> Response:
    """The answer for what is refused, unknown, no text or too large for the disk; any other error is the server's."""
    if isinstance(error, HTTPException) and request:
        error = Refused(404, "RepoNotFound", f"this Hub has no {request.method} {request.scope['path']}")
    elif isinstance(error, (UnicodeError, ClientDisconnect)):  # JSON and URLs may hold halves of letters
        error = Refused(400, "BadRequest", f"expected UTF-8; {error}")
    elif getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "disk is full" in str(error):
        error = Refused(507, "InsufficientStorage", "the disk of this Hub is full; nothing was stored")
    if not isinstance(error, Refused):
        raise error
    said = {"X-Error-Code": error.code, "X-Error-Message": str(error).encode("unicode_escape").decode()}
    headers = {"X-Request-Id": token_hex(8), **said, **error.headers}
    return JSONResponse({"error": str(error)}, error.status, headers=headers)


def application(routes: list[Route], hosts: Collection[str]) -> ASGIApp:
    """The routes for requests whose Host is one of this server, so that no web page can reach it under its own name.

    Addresses are let in: a page that is to be taken for this server needs a name. Paths are routed as they were sent,
    since a branch may hold an encoded slash.
    """
    errors: Any = (Refused, HTTPException, UnicodeError, ClientDisconnect, OSError, sqlite3.OperationalError)
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(errors, failed))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        netloc, known = dict(scope["headers"]).get(b"host", b"").decode("latin-1"), False
        with contextlib.suppress(ValueError):  # of what is neither a name nor an address
            host = urlsplit(f"//{netloc}").hostname or ""
            known = host.lower() in hosts or bool(ip_address(host))
        said = Refused(421, "MisdirectedRequest", "this Hub was not started for that name; see --public-url")
        work = app if known else await failed(None, said)
        await work({**scope, "path": scope["raw_path"].decode("ascii", "replace")}, receive, send)

    return answer
