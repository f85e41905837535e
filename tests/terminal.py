"""A pseudo-terminal, as a fixture."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


def read_all(parent: int) -> str:
    """All that arrives on a pseudo-terminal until its other end is closed."""
    parts = []
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # how Linux reports the end
            break
        if not part:
            break
        parts.append(part)
    os.close(parent)
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.fixture
def terminal() -> Callable[..., str]:
    """A function that runs python on a pseudo-terminal, without styles, and returns what it shows."""

    def run(args: list[str], **env: str) -> str:
        import pty

        parent, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", **env}
        with subprocess.Popen([sys.executable, *args], stdout=child, stderr=child, env=environment) as process:
            os.close(child)
            text = read_all(parent)
        assert process.returncode == 0, text
        return text

    return run
