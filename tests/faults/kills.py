"""Servers that are killed while commits are sent to them."""

import json
import threading
from http.client import HTTPException
from pathlib import Path

from talking import ask

from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.fsck import fsck
from timm_backbones_ext.local_hub.store import Store

__all__ = ["killed_servers"]


def acknowledged(hub: LocalHub, seconds: float, number: int) -> list[str]:
    """Commit until the server is killed; the commits that it has confirmed."""
    oids: list[str] = []
    try:
        while True:
            file = {"path": f"{number}-{len(oids)}.txt", "content": "eA==", "encoding": "base64"}
            lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": file}]
            status, answer, _ = ask(
                hub, "POST", "/api/models/me/a/commit/main", "\n".join(map(json.dumps, lines)).encode()
            )
            assert status == 200
            if not oids:
                threading.Timer(seconds, hub.process.kill).start()
            oids.append(answer["commitOid"])
    except (OSError, HTTPException):
        return oids


def killed_servers(root: Path, times: int) -> int:
    """Kill a server that commits are sent to so many times; returns how many commits it confirmed, all still there."""
    Store(root).create_repo("me/a")
    oids = []
    for number in range(times):
        with LocalHub(root) as hub:
            oids += acknowledged(hub, 0.05 + 0.02 * number, number)
    history = {commit.oid for commit in Store(root).history("me/a", Store(root).resolve("me/a", "main"))}
    assert set(oids) <= history
    assert fsck(root) == []
    return len(oids)
