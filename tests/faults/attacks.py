"""What networks, strangers and other users may do to a local Hub, as things that are done to a running one.

Each attack returns how often it was tried; whatever is not as its text says is an AssertionError. `test_attacks.py`
runs them all, and `benchmarks/reliability.py` writes the texts and the counts to docs/concepts/reliability.md.
"""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import lz4.frame
from itsdangerous import URLSafeTimedSerializer
from talking import api, ask, shard, upload, upload_link, xet, xorb

from timm_backbones_ext.local_hub import LocalHub, User

__all__ = ["ATTACKS", "TOKENS"]

TOKENS = {
    "boss": User("boss", "admin"),
    "mine": User("me", "write", ("team",)),
    "other": User("other", "write"),
    "reader": User("guest", "read"),
}
ATTACKS: dict[str, tuple[str, Callable[[LocalHub], int]]] = {}
"""What is done -> what happens, and the function that does it on a Hub with `TOKENS`."""
NAME = "a" * 64
SECRET = b"private content"
MB = 1 << 20


def attack(done: str, happens: str) -> Callable[[Callable[[LocalHub], int]], Callable[[LocalHub], int]]:
    def register(run: Callable[[LocalHub], int]) -> Callable[[LocalHub], int]:
        ATTACKS[done] = (happens, run)
        return run

    return register


def repo_of(hub: LocalHub, name: str, private: bool = False, owner: str = "me") -> str:
    """A new repo with one file in LFS."""
    client = api(hub, "mine" if owner == "me" else "boss")
    client.create_repo(f"{owner}/{name}", private=private)
    upload(client, f"{owner}/{name}", x__safetensors=SECRET)
    return f"{owner}/{name}"


def expect(status: int | range, found: tuple[int, object, object]) -> None:
    good = found[0] in status if isinstance(status, range) else found[0] == status
    assert good, f"expected {status}; got {found}"


@attack("paths that lead out of the folder, in URLs and in commits", "400, 404 or 422")
def _paths(hub: LocalHub) -> int:
    repo = repo_of(hub, "paths")
    paths = ["../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "x%00", "..%5Cx", ".git/config"]
    for path in paths:
        for place in (
            f"/{repo}/resolve/main/{path}",
            f"/storage/{path}",
            f"/xet/{path}/v1/shards",
            f"/api/models/{path}",
        ):
            expect(range(400, 500), ask(hub, "GET", place, token="mine"))
        file = {"path": unquote(path), "content": "eA==", "encoding": "base64"}
        lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": file}]
        body = "\n".join(map(json.dumps, lines)).encode()
        expect(422, ask(hub, "POST", f"/api/models/{repo}/commit/main", body, "mine"))
    return len(paths) * 5


@attack("branches and tags that read as commits, hide others or break git", "400 or 409; commits are found first")
def _refs(hub: LocalHub) -> int:
    repo = repo_of(hub, "refs")
    bad = [
        "a" * 40,
        "",
        "x\0y",
        "x\ny",
        "x y",
        "../x",
        "x..y",
        "x.lock",
        "-x",
        "x~1",
        "refs/heads/x",
        "HEAD",
        "x\u202ey",
    ]
    for name in bad:
        expect(400, ask(hub, "POST", f"/api/models/{repo}/tag/main", {"tag": name}, "mine"))
        if name:
            expect(400, ask(hub, "POST", f"/api/models/{repo}/branch/{quote(name, safe='')}", {}, "mine"))
    expect(200, ask(hub, "POST", f"/api/models/{repo}/branch/m", {}, "mine"))
    expect(409, ask(hub, "POST", f"/api/models/{repo}/branch/m%2Fn", {}, "mine"))
    expect(403, ask(hub, "DELETE", f"/api/models/{repo}/branch/main", token="mine"))
    return 2 * len(bad) + 1


@attack("repo ids of other alphabets, other cases or with dots", "400 or 409")
def _ids(hub: LocalHub) -> int:
    repo_of(hub, "ids")
    bad = ["\u0456ds", "..", "x/y", "x\0", "", "-x", "x.git", "x--y", "x" * 99, "ids\u200b"]
    for name in bad:
        expect(400, ask(hub, "POST", "/api/repos/create", {"name": name}, "mine"))
    expect(409, ask(hub, "POST", "/api/repos/create", {"name": "IDS"}, "mine"))
    return len(bad) + 1


@attack("uploads by strangers and readers, by LFS, by Xet and as commits", "401 or 403, and no link")
def _uploads(hub: LocalHub) -> int:
    repo = repo_of(hub, "uploads")
    for token, status in ((None, 401), ("reader", 403)):
        for operation in ("upload", "download", ""):
            asked = {"operation": operation, "objects": [{"oid": NAME, "size": 3}]}
            found = ask(hub, "POST", f"/{repo}.git/info/lfs/objects/batch", asked, token)
            assert "actions" not in json.dumps(found[1])
            expect(status if operation == "upload" else 200, found)
        expect(status, ask(hub, "GET", f"/api/models/{repo}/xet-write-token/main", token=token))
        expect(status, ask(hub, "POST", f"/api/models/{repo}/commit/main", b"{}", token))
        expect(status, ask(hub, "POST", f"/api/models/{repo}/preupload/main", {"files": []}, token))
    return 12


@attack("links to upload that were changed, are used for more, or were made up", "400, 403 or 413; nothing is kept")
def _links(hub: LocalHub) -> int:
    repo, content = repo_of(hub, "links"), b"what was said"
    sha256 = hashlib.sha256(content).hexdigest()
    link = upload_link(hub, repo, sha256, len(content), "mine")
    guessed = URLSafeTimedSerializer(b"guessed")
    place, _, signed = link.partition("signed=")
    larger = guessed.dumps([sha256, 10**9, repo]).rsplit(".", 2)[0]
    forged = [
        f"{place}signed={guessed.dumps([sha256, len(content), repo], salt='PUT')}",
        f"{place}signed={'.'.join([larger, *signed.rsplit('.', 2)[1:]])}",
        f"{place}signed={xet(hub, repo, 'mine')[1]}",
        link.replace(sha256, NAME),
        link[:-1],
        place,
    ]
    for url in forged:
        expect(403, ask(hub, "PUT", url, content, None))
    expect(413, ask(hub, "PUT", link, content + b"!", None))
    expect(400, ask(hub, "PUT", link, b"what was sent", None))
    expect(403, ask(hub, "GET", link, token=None))
    assert not hub.store.blobs.path(sha256).exists()
    assert not list(hub.store.blobs.folder.glob("incoming-*"))
    return len(forged) + 3


@attack("private repos and their content, asked for by others", "404; a commit cannot name content of another repo")
def _private(hub: LocalHub) -> int:
    repo, public = repo_of(hub, "private", private=True), repo_of(hub, "public", owner="other")
    places = ["", "/tree/main", "/refs", "/commits/main", "/discussions", "/revision/main", "/xet-write-token/main"]
    for token in (None, "reader", "other"):
        for place in places:
            expect(404, ask(hub, "GET", f"/api/models/{repo}{place}", token=token))
        expect(404, ask(hub, "GET", f"/{repo}/resolve/main/x.safetensors", token=token))
    mine = b"known by its hash alone"
    upload(api(hub, "mine"), repo, y__safetensors=mine)
    value = {"path": "y", "algo": "sha256", "oid": hashlib.sha256(mine).hexdigest(), "size": len(mine)}
    body = json.dumps({"key": "lfsFile", "value": value}).encode()
    expect(400, ask(hub, "POST", f"/api/models/{public}/commit/main", body, "other"))
    asked = {"operation": "download", "objects": [{"oid": value["oid"], "size": 1}]}
    assert "actions" not in json.dumps(ask(hub, "POST", f"/{public}.git/info/lfs/objects/batch", asked, "other")[1])
    return 3 * (len(places) + 1) + 2


@attack("writes to namespaces of others, and tokens that are none", "401 or 403")
def _namespaces(hub: LocalHub) -> int:
    repo = repo_of(hub, "namespaces")
    acts = [
        ("POST", f"/api/models/{repo}/branch/x", {}),
        ("POST", f"/api/models/{repo}/tag/main", {"tag": "x"}),
        ("DELETE", f"/api/models/{repo}/branch/x", None),
        ("PUT", f"/api/models/{repo}/settings", {"private": True}),
        ("POST", f"/api/models/{repo}/commit/main", b"{}"),
        ("POST", "/api/repos/create", {"name": "x", "organization": "me"}),
        ("DELETE", "/api/repos/delete", {"name": "namespaces", "organization": "me"}),
    ]
    for method, path, body in acts:
        body = b'{"key": "header", "value": {}}' if body == b"{}" else body
        expect(403, ask(hub, method, path, body, "other"))
        expect(403, ask(hub, method, path, body, "reader"))
        expect(401, ask(hub, method, path, body, "made-up"))
        expect(401, ask(hub, method, path, body, None))
    return 4 * len(acts)


@attack("bodies of 600 MB, announced by a stranger and by a writer", "401 or 413 before the body is read")
def _bodies(hub: LocalHub) -> int:
    repo, place, count = repo_of(hub, "bodies"), urlsplit(hub.endpoint), 0
    paths = ["/api/repos/create", "/api/validate-yaml", f"/api/models/{repo}/commit/main"]
    paths += [f"/api/models/{repo}/preupload/main", f"/api/models/{repo}/discussions", "/xet/x/v1/shards"]
    for path in paths:
        for token in ("", "mine"):
            with socket.create_connection((str(place.hostname), place.port or 0), timeout=10) as wire:
                head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {600 * MB}\r\n"
                wire.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
                status = int(wire.recv(4096).split()[1])
            assert status in (401, 413), f"{path}: {status}"
            count += 1
    endless = ask(hub, "POST", "/api/repos/create", iter([b" " * 50_000] * 3), "mine")  # which goes in chunks
    expect(413, endless)
    return count + 1


@attack(
    "JSON and YAML that are large or nested 100,000 deep",
    "400, and cards are not read; others are answered within a second",
)
def _nested(hub: LocalHub) -> int:
    repo = repo_of(hub, "nested")
    deep, wide = "[" * 100_000, "b: [x, {c: d}]\n" * 4000
    bodies = [
        deep.encode(),
        ('{"name":' * 100_000).encode(),
        b"\xff",
        b"[]",
        b'"x"',
        b"1",
        b'{"files": [{"path": "\\ud800", "size": 1}]}',
    ]
    for body in bodies:
        expect(400, ask(hub, "POST", f"/api/models/{repo}/preupload/main", body, "mine"))
    slowest, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            start = time.perf_counter()
            ask(hub, "GET", "/api/whoami-v2", token="mine")
            slowest[0] = max(slowest[0], time.perf_counter() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    lines = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10)]
    bomb = "a0: &a0 {x: 1, y: 2}\n" + "".join(lines)  # 2 * 10**9 entries, if it were built
    cards = [bomb, deep[:60_000], "{a: " * 15_000, wide * 12]
    for text in cards:
        start = time.perf_counter()
        expect(200, ask(hub, "POST", "/api/validate-yaml", {"content": f"---\n{text}\n---\n"}, None))
        assert time.perf_counter() - start < 3, f"{text[:20]}: {time.perf_counter() - start:.1f} s"
    stop.set()
    watcher.join()
    assert slowest[0] < 1, f"another client waited {slowest[0]:.1f} s"
    return len(bodies) + len(cards)


@attack("Xet: shards that claim what is not there, or make much of little", "400 at once; nothing is kept")
def _shards(hub: LocalHub) -> int:
    repo, chunk = repo_of(hub, "shards"), bytes(100_000)
    url, token = xet(hub, repo, "mine")
    packed = xorb(lz4.frame.compress(chunk), kind=1, size=len(chunk))
    expect(200, ask(hub, "POST", f"{url}/v1/xorbs/default/{NAME}", packed, token))
    shards = [
        shard(NAME, count=60_000_000),
        shard(NAME, count=0xFFFFFFFF),
        shard(NAME, *[(NAME, 0xFFFFFFFF, 0, 1)] * 300),
        shard(NAME, *[(NAME, 100_000, 0, 1)] * 3, (NAME, 0xFFFFFFF, 0, 60_000)),
        shard(NAME, (NAME, 100_000, 0, 1)),
        shard(NAME, (NAME, 99_999, 0, 1)),
        shard(NAME, ("c" * 64, 10, 0, 1)),
        b"\0" * 10_000,
    ]
    start = time.perf_counter()
    for body in shards:
        expect(400, ask(hub, "POST", f"{url}/v1/shards", body, token))
    big = "b" * 64
    packed = xorb(lz4.frame.compress(bytes(MB)), kind=1, size=MB)
    expect(200, ask(hub, "POST", f"{url}/v1/xorbs/default/{big}", packed, token))
    found = ask(hub, "POST", f"{url}/v1/shards", shard(NAME, *[(big, MB, 0, 1)] * 600), token)
    expect(400, found)
    assert "the shard makes 629145600 bytes of content" in found[1]["error"]
    assert time.perf_counter() - start < 5
    assert hub.store.blobs.size(NAME) is None
    return len(shards) + 1


def most_memory(hub: LocalHub) -> int:
    """The most bytes of memory that the server has had; 0 where the system does not tell."""
    status = Path(f"/proc/{hub.process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


@attack("Xet: xorbs that unpack to more than they say, or are damaged", "400 when the shard arrives")
def _xorbs(hub: LocalHub) -> int:
    repo, bomb = repo_of(hub, "xorbs"), lz4.frame.compress(bytes(200 * MB))
    url, token = xet(hub, repo, "mine")
    before = most_memory(hub)
    cases = [xorb(bomb[: 1 << 20], kind=1, size=1000), xorb(b"no lz4", kind=1), xorb(b"x", kind=9), xorb(b"x" * 5)[:-2]]
    cases += [xorb(b"x", size=8 << 20), b"", b"\0"]
    for number, content in enumerate(cases):
        name = f"{number:064x}"
        found = ask(hub, "POST", f"{url}/v1/xorbs/default/{name}", content, token)
        if found[0] == 200:
            found = ask(hub, "POST", f"{url}/v1/shards", shard(NAME, (name, 1000 if number == 0 else 6, 0, 1)), token)
        expect(400, found)
    assert most_memory(hub) - before < 100 * MB
    return len(cases)


@attack("Xet: parts of another's upload replaced, or read", "they are in another folder; there is nothing to read")
def _others(hub: LocalHub) -> int:
    mine, theirs = repo_of(hub, "upload"), repo_of(hub, "upload", owner="other")
    content, evil = b"published", b"replaced!"
    sha256 = hashlib.sha256(content).hexdigest()
    (url, token), (_, other) = xet(hub, mine, "mine"), xet(hub, theirs, "other")
    place = f"{url}/v1/xorbs/default/{NAME}"
    expect(200, ask(hub, "POST", place, xorb(content), token))
    expect(200, ask(hub, "POST", place, xorb(evil), other))
    expect(200, ask(hub, "POST", f"{url}/v1/shards", shard(sha256, (NAME, 9, 0, 1)), token))
    assert hub.store.blobs.path(sha256).read_bytes() == content
    expect(range(404, 406), ask(hub, "GET", place, token=token))
    expect(range(404, 406), ask(hub, "GET", f"{url}/v1/reconstructions/{sha256}", token=other))
    expect(404, ask(hub, "GET", f"/api/models/{mine}/xet-read-token/main", token="mine"))
    expect(401, ask(hub, "POST", f"{url}/v1/shards", b"", "mine"))
    return 5


@attack("requests under another host name, as a web page makes them", "421")
def _hosts(hub: LocalHub) -> int:
    names = ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "@evil"]
    for name in names:
        expect(421, ask(hub, "GET", "/api/whoami-v2", token="mine", Host=name))
    for name in ("localhost:1", "127.0.0.1", "[::1]:5000"):
        expect(200, ask(hub, "GET", "/api/whoami-v2", token="mine", Host=name))
    return len(names)


@attack("50 commits at once to one branch", "each is in the history, or its client was told")
def _parallel(hub: LocalHub) -> int:
    repo, done = repo_of(hub, "parallel"), []

    def commit(number: int) -> None:
        file = {"path": f"{number}.txt", "content": "eA==", "encoding": "base64"}
        lines = [{"key": "header", "value": {"summary": str(number)}}, {"key": "file", "value": file}]
        body = "\n".join(map(json.dumps, lines)).encode()
        while (found := ask(hub, "POST", f"/api/models/{repo}/commit/main", body, "mine"))[0] == 412:
            pass
        expect(200, found)
        done.append(found[1]["commitOid"])

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = {commit.commit_id for commit in api(hub, "mine").list_repo_commits(repo)}
    assert len(done) == 50
    assert set(done) <= history
    assert len(api(hub, "mine").list_repo_files(repo)) == 52
    return 50
