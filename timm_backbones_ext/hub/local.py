"""A Hugging Face Hub on this machine, for tests, demos and teams without a network.

timm-ext hub serve ROOT --port 5000
HF_ENDPOINT=http://127.0.0.1:5000 python script.py
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from .store import Store

__all__ = ["LocalHub", "parse_token", "serve"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
START_SECONDS = 120
_LIGHT = """
import runpy, sys, types
for name, folder in (("timm_backbones_ext", sys.argv[1]), ("timm_backbones_ext.hub", sys.argv[1] + "/hub")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
del sys.argv[1]
runpy.run_module("timm_backbones_ext.hub.local", run_name="__main__", alter_sys=True)
"""
"""Runs this module without the packages around it, which import torch and timm: a server starts in half a second."""


def parse_token(text: str) -> tuple[str, tuple[str, bool]]:
    """Read `TOKEN=USER` or `TOKEN=USER:read`; returns the token, the user's name and whether it may write."""
    token, equals, rest = text.partition("=")
    user, _, scope = rest.partition(":")
    if not (token and equals and user) or scope not in ("", "read", "write"):
        raise ValueError(f"expected TOKEN=USER, TOKEN=USER:read or TOKEN=USER:write; got {text!r}")
    return token, (user, scope != "read")


def serve(
    root: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tokens: Mapping[str, tuple[str, bool]] | None = None,
    allow_remote: bool = False,
    announce: TextIO | None = None,
    wrap: Callable[[Any], Any] = lambda app: app,
) -> None:
    """Serve the Hub that is kept in a folder, until interrupted.

    Args:
        root: The folder; made if it does not exist.
        host: Address to listen on; loopback, unless remote clients are allowed.
        port: Port of the API; a free one by default. The storage host takes another free one.
        tokens: Token -> (user, may write). Without any, on loopback, every token may do everything.
        allow_remote: Listen on an address that other machines reach; needs tokens.
        announce: Where to write the endpoint, as one line of JSON; standard output by default.
        wrap: ASGI middleware around the Hub.

    Raises:
        ValueError: An address beyond loopback without `allow_remote` and tokens.
        OSError: The port is taken.
        ImportError: The extra `local-hub` is not installed.
    """
    if host not in LOOPBACK and not (allow_remote and tokens):
        raise ValueError(f"{host} can be reached from other machines: that needs allow_remote=True and tokens")
    from .server import Hub, User  # starlette is in an extra

    with socket.create_server((host, port)) as api, socket.create_server((host, 0)) as storage:
        app = Hub(root, storage.getsockname()[1], {token: User(*user) for token, user in (tokens or {}).items()})
        print(
            json.dumps({"endpoint": f"http://{host}:{api.getsockname()[1]}"}), file=announce or sys.stdout, flush=True
        )
        _run(wrap(app), [api, storage])


def _run(app: Any, sockets: list[socket.socket]) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    asyncio.run(uvicorn.Server(config).serve(sockets=sockets))


class LocalHub:
    """A local Hub in a process of its own, which ends with this one.

        with LocalHub("hub") as hub:
            subprocess.run([...], env=os.environ | hub.env)

    Args:
        root: Folder of the Hub; a temporary one by default.
        tokens: Token -> (user, may write).
        port: Port of the API; a free one by default.
    """

    endpoint: str
    """`http://127.0.0.1:PORT`"""
    program = _LIGHT
    """What the process runs; its arguments are the package's folder and those of `main`."""

    def __init__(
        self,
        root: str | Path | None = None,
        tokens: Mapping[str, tuple[str, bool]] | None = None,
        port: int = 0,
    ) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="local-hub-")
        self.root = Path(root) if root is not None else Path(self._scratch.name, "hub")
        self.tokens, self.port = dict(tokens or {}), port

    @property
    def env(self) -> dict[str, str]:
        """Environment of a client: set it before huggingface_hub is imported, in a process of its own."""
        home = str(Path(self._scratch.name, "home"))
        token = next(iter(self.tokens), "local")
        client = {"HF_ENDPOINT": self.endpoint, "HF_HOME": home, "HF_TOKEN": token}
        return {**client, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    @property
    def store(self) -> Store:
        """The Hub's folder, to look into from outside."""
        return Store(self.root)

    def __enter__(self) -> "LocalHub":
        scopes = [f"{token}={user}:{'write' if writes else 'read'}" for token, (user, writes) in self.tokens.items()]
        package = str(Path(__file__).parents[1])
        command = [
            sys.executable,
            "-c",
            self.program,
            package,
            str(self.root),
            "--port",
            str(self.port),
            "--until-stdin-closes",
        ]
        self._process: Any = subprocess.Popen(
            [*command, *(part for scope in scopes for part in ("--token", scope))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "0"},
        )
        watchdog = threading.Timer(START_SECONDS, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            self.__exit__()
            raise RuntimeError(f"the local Hub did not start within {START_SECONDS} s; what it said is above")
        self.endpoint = json.loads(line)["endpoint"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._scratch.cleanup()


def main(wrap: Callable[[Any], Any] = lambda app: app) -> None:
    """Serve from the command line, without the rest of `timm-ext`."""
    parser = argparse.ArgumentParser(prog="python -m timm_backbones_ext.hub.local", description=serve.__doc__)
    parser.add_argument("root")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", action="append", default=[], metavar="TOKEN=USER[:read]")
    parser.add_argument("--until-stdin-closes", action="store_true")
    args = parser.parse_args()
    if args.until_stdin_closes:  # the parent holds the other end, and lets go of it even when it is killed
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    serve(args.root, port=args.port, tokens=dict(map(parse_token, args.token)), wrap=wrap)


if __name__ == "__main__":
    main()
