"""A local Hub that does what networks and other servers do: it is told over HTTP, one rule after the other."""

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from timm_backbones_ext.local_hub.local import LocalHub, main, run

__all__ = ["FaultyHub"]
CONNECTIONS: dict[tuple[str, int], asyncio.Transport] = {}
"""Transports by the address of the client, as ASGI names it."""


async def break_off(scope: Any) -> None:
    """Close the connection of a request at once; an exception would be answered with status 500."""
    client = tuple(scope["client"])
    if client in CONNECTIONS:  # it is not where the client was impatient
        CONNECTIONS[client].abort()
    while client in CONNECTIONS:  # until the server knows that there is nobody to answer
        await asyncio.sleep(0)


class Faults:
    """ASGI middleware: rules, each used for so many of the requests that it is for, and a list of the requests."""

    def __init__(self, app: Any) -> None:
        self.app, self.rules, self.seen = app, [], []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request as the Hub would, or as the first fitting rule says."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == "/_faults":
            return await self.control(receive, send)
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.seen.append(seen := [scope["method"], scope["path"], headers.get("range", ""), 0])
        rule = next((rule for rule in self.rules if rule["times"] and self.fits(rule, scope)), None)
        if rule is None:
            return await self.app(scope, receive, counting(send, seen))
        rule["times"] -= 1
        return await getattr(self, rule["kind"])(rule, scope, receive, send)

    async def control(self, receive: Any, send: Any) -> None:
        """Take new rules, and tell what was asked for since the last ones."""
        answer = json.dumps(self.seen).encode()
        self.rules, self.seen = json.loads(await whole(receive) or b"[]"), []
        await reply(send, 200, answer)

    @staticmethod
    def fits(rule: dict, scope: Any) -> bool:
        """Whether a rule is for a request."""
        path = scope["path"]
        return rule["where"] in path and scope["method"] in rule.get("method", "GET HEAD POST PUT")

    async def status(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """An answer with a status, and perhaps Retry-After."""
        headers = [(b"retry-after", str(rule["after"]).encode())] if "after" in rule else []
        await reply(send, rule["status"], b"the server is not well", headers)

    async def gated(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """What the Hub answers about a gated repo; a local Hub gates none."""
        await reply(send, 403, b'{"error": "ask for access"}', [(b"x-error-code", b"GatedRepo")])

    async def moved(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """What the Hub answers about a repo that has got another id."""
        place = scope["raw_path"].decode().replace(rule["from"], rule["to"], 1)
        await reply(send, 307, b"", [(b"location", place.encode())])

    async def xet(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """A file as the Hub offers it that serves Xet; a local Hub serves none."""
        place = f"http://{dict(scope['headers'])[b'host'].decode()}/xet-read-token"
        more = [(b"x-xet-hash", b"0" * 64), (b"link", f'<{place}>; rel="xet-auth"'.encode())]

        async def offered(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, offered)

    async def taken(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """Take what is sent, in place of the Hub; what was asked for holds it."""
        self.seen[-1].append((await whole(receive)).decode())
        await reply(send, 200, b"{}")

    async def hang(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """No answer for a while."""
        await asyncio.sleep(rule["seconds"])
        await break_off(scope)

    async def lost(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """The request is carried out; its answer is lost."""

        async def nowhere(message: Any) -> None:
            return None

        await self.app(scope, receive, nowhere)
        await break_off(scope)

    async def reset(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """The connection breaks before an answer."""
        await break_off(scope)

    async def cut(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """The connection breaks after so many bytes."""
        await self.app(scope, receive, Changed(scope, send, cut=rule["at"]))

    async def stall(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """Nothing more arrives after so many bytes, for a while."""
        await self.app(scope, receive, Changed(scope, send, cut=rule["at"], pause=rule["seconds"]))

    async def no_range(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """The whole file, whatever part was asked for; and the connection breaks after so many bytes, if it says so."""
        scope["headers"] = [(key, value) for key, value in scope["headers"] if key != b"range"]
        await self.app(scope, receive, Changed(scope, send, cut=rule.get("at")))

    async def flip(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """One byte arrives with another value."""
        await self.app(scope, receive, Changed(scope, send, flip=rule["at"]))

    async def rename(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """A file has another name in the answer."""
        await self.app(scope, receive, Changed(scope, send, names=(rule["from"], rule["to"])))

    async def short(self, rule: dict, scope: Any, receive: Any, send: Any) -> None:
        """A body that is too short, with a length that says it is whole."""
        await self.app(scope, receive, Changed(scope, send, keep=rule["at"]))


@dataclass
class Changed:
    """Sends an answer on with changes to its body."""

    scope: Any
    send: Any
    cut: int | None = None
    """Break the connection after so many bytes ..."""
    pause: float = 0.05
    """... and so many seconds, in which they leave the machine."""
    flip: int | None = None
    keep: int | None = None
    names: tuple[str, str] | None = None
    sent: int = 0

    async def __call__(self, message: Any) -> None:
        """Send one message of the answer."""
        if message["type"] == "http.response.start":
            length = None if self.keep is None else str(self.keep).encode()
            message["headers"] = [
                (key, length if length and key == b"content-length" else value)
                for key, value in message["headers"]
                if self.names is None or key != b"content-length"
            ]
        if message["type"] == "http.response.body":
            message["body"] = self.changed(bytes(message.get("body", b"")))
            self.sent += len(message["body"])
        await self.send(message)
        if self.cut is not None and self.sent >= self.cut and tuple(self.scope["client"]) in CONNECTIONS:
            await asyncio.sleep(self.pause)
            await break_off(self.scope)

    def changed(self, body: bytes) -> bytes:
        """The part of the body that starts at byte `sent`, with the fault in it."""
        if self.names is not None:
            return body.replace(*(name.encode() for name in self.names))
        if self.flip is not None and self.sent <= self.flip < self.sent + len(body):
            at = self.flip - self.sent
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        limit = self.keep if self.keep is not None else self.cut
        return body if limit is None else body[: max(0, limit - self.sent)]


def counting(send: Any, seen: list) -> Any:
    """Sends an answer on, and counts the bytes of its body."""

    async def counted(message: Any) -> None:
        seen[3] += len(message.get("body", b""))
        await send(message)

    return counted


async def whole(receive: Any) -> bytes:
    """The body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def reply(send: Any, status: int, body: bytes, headers: Any = ()) -> None:
    """A whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


class FaultyHub(LocalHub):
    """A local Hub whose process knows faults."""

    script = __file__

    def faults(self, *rules: dict) -> list[list]:
        """Set the rules, and return the requests since they were set last.

        Of each: method, path, Range, and the bytes that were sent if no rule was for it.
        """
        body = json.dumps([{"times": 1, **rule} for rule in rules]).encode()
        request = urllib.request.Request(f"{self.endpoint}/_faults", body, method="POST")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def requests(self) -> list[str]:
        """`GET /path` of each request since the rules were set last; there are none afterwards."""
        return [f"{method} {path}" for method, path, *_ in self.faults()]


def serve(app: Any, sockets: list) -> None:
    """Serve with faults, on connections that can be broken off."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            CONNECTIONS[transport.get_extra_info("peername")[:2]] = transport
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            CONNECTIONS.pop(self.transport.get_extra_info("peername")[:2], None)

    run(Faults(app), sockets, http=Connection)


if __name__ == "__main__":
    main(run=serve)
