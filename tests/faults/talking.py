"""Talks to a local Hub: as the real client, and as one without manners."""

import http.client
import json
import struct
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import CommitOperationAdd, HfApi

from timm_backbones_ext.local_hub import LocalHub

__all__ = ["api", "ask", "shard", "upload", "upload_link", "xet", "xorb"]


def api(hub: LocalHub, token: str | bool = "any") -> HfApi:
    """The real client."""
    return HfApi(endpoint=hub.endpoint, token=token)


def upload(client: HfApi, repo: str, **files: bytes) -> str:
    """Commit files, `__` for a dot; returns the commit."""
    operations = [CommitOperationAdd(name.replace("__", "."), content) for name, content in files.items()]
    return client.create_commit(repo, operations, commit_message="files").oid


def ask(
    hub: LocalHub, method: str, path: str, body: Any = None, token: str | None = "any", **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers of an answer; a body that is no bytes goes as JSON, and paths go as they are."""
    place = urlsplit(path if path.startswith("http") else hub.endpoint + path)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    sent = json.dumps(body).encode() if isinstance(body, (dict, list, str)) else body
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    query = f"?{place.query}" if place.query else ""
    try:
        connection.request(
            method, place.path + query, sent, {"Content-Type": "application/json", **authorization, **headers}
        )
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    read = json.loads(text) if "json" in answer.headers.get("content-type", "") else text
    return answer.status, read, {key.lower(): value for key, value in answer.headers.items()}


def upload_link(hub: LocalHub, repo: str, sha256: str, size: int, token: str | None = "any") -> str:
    """A link to send content to, as LFS asks for it."""
    asked = {"operation": "upload", "objects": [{"oid": sha256, "size": size}]}
    _, answer, _ = ask(hub, "POST", f"/{repo}.git/info/lfs/objects/batch", asked, token)
    return answer["objects"][0]["actions"]["upload"]["href"]


def xet(hub: LocalHub, repo: str, token: str | None = "any") -> tuple[str, str]:
    """Where an upload by Xet goes, and the token that opens it."""
    _, answer, _ = ask(hub, "GET", f"/api/models/{repo}/xet-write-token/main", token=token)
    return answer["casUrl"], answer["accessToken"]


def xorb(*contents: bytes, kind: int = 0, size: int | None = None) -> bytes:
    """Chunks as Xet's client packs them; `size` is what each claims to be when it is unpacked."""
    parts = [
        b"\0" + len(data).to_bytes(3, "little") + bytes([kind]) + (size or len(data)).to_bytes(3, "little") + data
        for data in contents
    ]
    return b"".join(parts)


def shard(sha256: str, *terms: tuple[str, int, int, int], count: int | None = None) -> bytes:
    """What says that a file is made of terms: xorb, unpacked size, first chunk, chunk after the last."""
    head = bytes.fromhex("11" * 32) + struct.pack("<II8x", 1 << 30, len(terms) if count is None else count)
    rows = b"".join(bytes.fromhex(name) + struct.pack("<4I", 0, *term) for name, *term in terms)
    words = struct.pack("<4Q", *(int(sha256[at : at + 16], 16) for at in range(0, 64, 16)))
    return bytes(48) + head + rows + words + bytes(16) + b"\xff" * 32
