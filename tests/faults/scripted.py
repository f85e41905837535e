"""A server that answers some requests as a script says, byte for byte, and passes all others on to a real local Hub."""

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

__all__ = ["Answer", "Scripted", "scripted"]


@dataclass
class Answer:
    """One scripted answer; `change` turns the Hub's own body into another one instead."""

    where: str
    """A regular expression that the path has to match."""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET|HEAD|POST|PUT|DELETE"
    change: Callable[[bytes], bytes] | None = None
    times: int = -1


class Scripted:
    """The server: its answers, and the requests that came."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.answers, self.seen = urlsplit(upstream), [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else b""
        self.seen.append((request.command, request.path, dict(request.headers), body))
        for item in self.answers:
            fits = re.search(item.where, request.path) and re.fullmatch(item.method, request.command)
            if item.times and fits:
                item.times -= 1
                if item.change is None:
                    return self.send(request, item.status, item.headers, item.body)
                status, headers, content = self.passed_on(request, body)
                return self.send(request, status, headers, item.change(content))
        return self.send(request, *self.passed_on(request, body))

    def passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the local Hub answers."""
        connection = http.client.HTTPConnection(str(self.upstream.hostname), self.upstream.port)
        kept = {key: value for key, value in request.headers.items() if key.lower() not in ("connection", "host")}
        connection.request(request.command, request.path, body or None, kept)
        answer = connection.getresponse()
        content, headers = answer.read(), {key.lower(): value for key, value in answer.getheaders()}
        for key in ("connection", "transfer-encoding", *(["content-length"] if request.command != "HEAD" else [])):
            headers.pop(key, None)
        connection.close()
        return answer.status, headers, content

    def send(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        """Write an answer; a Content-Length that is given may lie."""
        request.send_response_only(status)
        given = {key.lower(): value for key, value in headers.items()}
        for key, value in {"content-length": str(len(body)), "content-type": "application/json", **given}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


@contextmanager
def scripted(upstream: str) -> Iterator[Scripted]:
    """A running server, and the Hub's client of this process goes to it."""
    server = Scripted(upstream)
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template.replace(upstream, server.endpoint))
        yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()
