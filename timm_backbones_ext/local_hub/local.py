"""How a local Hub is started: in this process, until interrupted, or in one of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .access import Tokens, User
from .store import Store

__all__ = ["LocalHub", "main", "run", "serve"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def run(app: Any, sockets: list[socket.socket], **options: Any) -> None:
    """Serve an ASGI application with uvicorn, until interrupted."""
    import uvicorn

    quiet: Any = {"log_level": "error", "access_log": False, "lifespan": "off", "timeout_graceful_shutdown": 1}
    uvicorn.Server(uvicorn.Config(app, **quiet, **options)).run(sockets=sockets)


def serve(
    root: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tokens: Mapping[str, User] | None = None,
    tokens_file: str | Path | None = None,
    allow_remote: bool = False,
    public_url: str = "",
    storage_port: int | None = None,
    run: Callable[[Any, list[socket.socket]], None] = run,
) -> None:
    """Serve the Hub that is kept in a folder, until interrupted; the first line of output names the endpoint, as JSON.

    Args:
        root: The folder; made if it does not exist. One server at a time may have it.
        host: Address to listen on; loopback, unless remote clients are allowed.
        port: Port of the API; a free one by default.
        tokens: Users by token. Without any, on loopback, every token may do everything.
        tokens_file: A file of lines `NAME ROLE TOKEN [TEAM ...]`, read again when it changes.
        allow_remote: Listen on an address that other machines reach; needs tokens.
        public_url: What clients call this server, if that is not its address: a reverse proxy or a tunnel.
        storage_port: A second port for large files (0: a free one); they come from the first one by default.
        run: What serves the ASGI application on the open sockets; uvicorn by default.

    Raises:
        ValueError: An address beyond loopback without `allow_remote` and tokens, or another server has the folder.
        OSError: The port is taken.
        ImportError: The extra `local-hub` is not installed.
    """
    known = Tokens(tokens, tokens_file)
    if host not in LOOPBACK and not (allow_remote and known.required):
        raise ValueError(f"{host} can be reached from other machines: that needs allow_remote=True and tokens")
    try:
        from filelock import FileLock, Timeout

        from .server import Hub
        from .web import application
    except ImportError as error:
        raise ImportError(f'{error}. A local Hub needs: pip install "timm-backbones-ext[local-hub]"') from error

    names = {host, "localhost", urlsplit(public_url).hostname or host}
    if host not in LOOPBACK:
        names |= {socket.gethostname(), socket.getfqdn()}
        if not public_url.startswith("https:"):
            print("Warning: plain HTTP. The network can read tokens and files; see --public-url", file=sys.stderr)
    store, family = Store(root), socket.getaddrinfo(host, port)[0][0]
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(store.root / "server.lock", timeout=0))  # which a killed process gives back
        except Timeout as error:
            raise ValueError(f"another server has {store.root}; stop it, or take another folder") from error
        shutil.rmtree(store.root / "xet", ignore_errors=True)  # uploads that a server before this one was to finish
        ports = [port] if storage_port is None else [port, storage_port]
        sockets = [stack.enter_context(socket.create_server((host, number), family=family)) for number in ports]
        port, *storage = [number.getsockname()[1] for number in sockets]
        endpoint = public_url.rstrip("/") or f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(json.dumps({"endpoint": endpoint}), flush=True)
        hub = Hub(store, endpoint if public_url else "", storage[0] if storage else None, known)
        run(application(hub.routes(), names), sockets)


class LocalHub:
    """A local Hub in a process of its own, which ends with this one.

        with LocalHub("hub") as hub:
            subprocess.run([...], env=os.environ | hub.env)

    Large files come from a second port, as they come from another host on the Hub.

    Args:
        root: Folder of the Hub; a temporary one by default.
        tokens: Users by token.
        options: More of what `serve` takes, as JSON has it.
    """

    endpoint: str
    """`http://127.0.0.1:PORT`"""
    script: str | Path = Path(__file__).with_name("__main__.py")
    """What the process runs: it calls `main`."""

    def __init__(
        self, root: str | Path | None = None, tokens: Mapping[str, User] | None = None, **options: Any
    ) -> None:
        self.scratch = tempfile.TemporaryDirectory(prefix="local-hub-")
        self.home = Path(self.scratch.name, "home")  # of a client's cache, for as long as the Hub runs
        self.root = Path(root) if root is not None else Path(self.scratch.name, "hub")
        self.tokens, self.options = dict(tokens or {}), {"storage_port": 0, **options}

    @property
    def env(self) -> dict[str, str]:
        """Environment of a client: set it before huggingface_hub is imported, in a process of its own."""
        token = next(iter(self.tokens), "local")
        client = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_TOKEN": token}
        return {**client, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    @property
    def store(self) -> Store:
        """The Hub's folder, to look into from outside."""
        return Store(self.root)

    def __enter__(self) -> "LocalHub":
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: Any = subprocess.Popen([sys.executable, str(self.script), str(self.root)], **pipes)
        tokens = {token: vars(user) for token, user in self.tokens.items()}
        print(json.dumps({**self.options, "tokens": tokens}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.__exit__()
            raise RuntimeError("the local Hub did not start; what it said is above")
        self.endpoint = json.loads(line)["endpoint"]
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # which waits for its end
            self.process.kill()  # nothing that was acknowledged is lost
        self.scratch.cleanup()


def main(run: Callable[[Any, list[socket.socket]], None] = run) -> None:
    """Serve for a `LocalHub`, which writes the options to the standard input, until the process that made it ends."""
    options = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    tokens = {token: User(**about) for token, about in options.pop("tokens").items()}
    serve(sys.argv[1], tokens=tokens, run=run, **options)
