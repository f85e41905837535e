"""What a local Hub keeps when it is killed, when the disk is full, and when things are damaged or left over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import killed_servers
from talking import api, ask, upload, upload_link, xet, xorb

from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.fsck import collect, fsck
from timm_backbones_ext.local_hub.mirror import adopt
from timm_backbones_ext.local_hub.names import Refused, checked_path, checked_repo
from timm_backbones_ext.local_hub.store import Draft, File, Store


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create_repo("me/a")
    return made


def test_content_with_a_wrong_hash_is_rejected(store: Store) -> None:
    before = list(store.blobs.folder.rglob("*"))
    with pytest.raises(Refused, match="expected content with sha256"):
        store.blobs.put(b"something else", "0" * 64)
    assert [path for path in store.blobs.folder.rglob("*") if path.is_file() and path not in before] == []
    with pytest.raises(Refused, match="was not uploaded"):
        store.commit("me/a", "heads/main", Draft("x", "", "me", {"x": File("x", "0" * 64, 1, "0" * 40, lfs=True)}))


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\x", "a//x", "", ".git/config", "a/.", "x\0", "x\ny"])
def test_path_names_cannot_leave_the_repo(path: str) -> None:
    with pytest.raises(Refused, match="not a path inside a repo"):
        checked_path(path)


@pytest.mark.parametrize("repo", ["../a", "a", "a/b/c", "a/..", "a/-b", ".git/b", "a/b.git", "a/\u0430"])
def test_repo_ids_cannot_leave_the_root(repo: str) -> None:
    with pytest.raises(Refused, match="no repo id"):
        checked_repo(repo)


KILLED = """
import os, signal, sys
from timm_backbones_ext.local_hub import store
hub = store.Store(sys.argv[1])
file = store.File("x", hub.blobs.put(b"new"), 3, "0" * 40, lfs=False)
with hub.database(write=True) as db:
    num = hub.open_pull("me/a", "half", "me", hub.resolve("me/a", "main"))
    db.set_trace_callback(lambda text: os.kill(os.getpid(), signal.SIGKILL) if text.startswith(sys.argv[2]) else None)
    hub.commit("me/a", f"pr/{num}", store.Draft("half", "", "me", {"x": file}))
"""


@pytest.mark.parametrize("step", ["INSERT INTO commits", "INSERT INTO files", "INSERT OR REPLACE INTO refs", "COMMIT"])
def test_a_kill_in_the_middle_of_a_pull_request_leaves_a_hub_that_goes_on(store: Store, step: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(store.root), step], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.refs("me/a").keys() == {"heads/main"}
    assert fsck(store.root) == []
    with LocalHub(store.root) as hub:
        assert list(api(hub).get_repo_discussions("me/a")) == []
        assert api(hub).create_pull_request("me/a", "whole").num == 1


def test_no_commit_that_was_confirmed_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    assert killed_servers(tmp_path / "hub", 5) > 5


FULL = """
import resource
from timm_backbones_ext.local_hub.local import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
main()
"""


def test_a_full_disk_is_status_507_and_nothing_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    with LocalHub(root) as hub:
        api(hub).create_repo("me/a")
        commit = upload(api(hub), "me/a", x__txt=b"kept")
    (tmp_path / "full.py").write_text(FULL)
    limited = LocalHub(root)
    limited.script = tmp_path / "full.py"
    with limited as hub:
        link = upload_link(hub, "me/a", "a" * 64, 3_000_000)
        assert ask(hub, "PUT", link, bytes(3_000_000), None)[0] == 507
        url, token = xet(hub, "me/a")
        assert ask(hub, "POST", f"{url}/v1/xorbs/default/{'a' * 64}", xorb(*[bytes(100_000)] * 30), token)[0] == 507
        statuses = set()
        for number in range(60):
            lines = [{"key": "file", "value": {"path": f"{number}", "content": "x" * 50_000}}]
            body = "\n".join(map(json.dumps, lines)).encode()
            statuses.add(ask(hub, "POST", "/api/models/me/a/commit/main", body)[0])
        assert statuses <= {200, 507}
        assert api(hub).repo_info("me/a", revision=commit).sha == commit
    assert fsck(root) == []
    assert not list(root.glob("blobs/incoming-*"))


def test_fsck_names_what_is_damaged_and_what_is_missing(hub: LocalHub) -> None:
    api(hub).create_repo("me/a")
    upload(api(hub), "me/a", a__txt=b"first", b__txt=b"second", c__txt=b"third")
    assert fsck(hub.root) == []
    store = hub.store
    files = store.files("me/a", store.resolve("me/a", "main"))
    store.blobs.path(files["a.txt"].sha256).unlink()
    store.blobs.path(files["b.txt"].sha256).write_bytes(b"sEcond")
    store.blobs.path(files["c.txt"].sha256).write_bytes(b"thi")
    problems = "\n".join(fsck(hub.root))
    assert f"missing: {files['a.txt'].sha256} (needed by me/a a.txt at" in problems
    assert f"damaged: {files['b.txt'].sha256}" in problems
    assert f"3 bytes instead of 5: {files['c.txt'].sha256}" in problems
    with pytest.raises(Refused, match="holds no local Hub"):
        fsck(hub.root / "absent")


def test_gc_frees_what_nothing_refers_to_and_keeps_what_is_young(hub: LocalHub) -> None:
    client, store = api(hub), hub.store
    for repo in ("me/a", "me/b"):
        client.create_repo(repo)
        upload(client, repo, x__safetensors=b"both", y__safetensors=repo.encode())
    client.delete_repo("me/b")
    left = store.blobs.folder / "incoming-left"
    left.write_bytes(b"half")
    part = store.root / "xet" / "upload" / "part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"part")
    assert collect(hub.root) == (0, 0)
    day_ago = time.time() - 25 * 3600
    for path in (*store.blobs.folder.rglob("*"), part):
        os.utime(path, (day_ago, day_ago))
    with store.database(write=True) as db:
        db.execute("UPDATE uploads SET date = ?", (day_ago,))
    assert collect(hub.root) == (3, len(b"me/b") + len(b"half") + len(b"part"))
    assert not left.exists()
    assert not part.exists()
    assert fsck(hub.root) == []
    assert client.get_paths_info("me/a", ["x.safetensors"])[0].size == 4


def test_uploads_that_were_left_are_gone_when_the_server_starts_again(tmp_path: Path) -> None:
    with LocalHub(tmp_path) as hub:
        api(hub).create_repo("me/a")
        url, token = xet(hub, "me/a")
        assert ask(hub, "POST", f"{url}/v1/xorbs/default/{'a' * 64}", xorb(b"left"), token)[0] == 200
        assert len(list(tmp_path.glob("xet/*/*"))) == 1
    with LocalHub(tmp_path):
        assert list(tmp_path.glob("xet/*")) == []


def mirrored(store: Store, repo: str, oid: str, revision: str = "main", private: bool = False) -> str | None:
    file = File("x", store.blobs.put(oid.encode()), 40, "0" * 40, lfs=False)
    return adopt(store, repo, oid, [file], revision, private=private)


def test_a_mirror_keeps_a_private_repo_private(store: Store) -> None:
    mirrored(store, "them/a", "a" * 40, private=True)
    assert store.find("them/a") == ("them/a", True)
    mirrored(store, "me/a", "b" * 40, private=True)
    mirrored(store, "me/a", "c" * 40, private=False)
    assert store.find("me/a") == ("me/a", True)


def test_a_mirror_moves_its_own_branch_and_none_with_local_commits(store: Store) -> None:
    assert mirrored(store, "them/a", "a" * 40) is None
    assert mirrored(store, "them/a", "b" * 40) is None
    assert store.resolve("them/a", "main") == "b" * 40
    assert mirrored(store, "them/a", "c" * 40, "v1") is None
    assert store.refs("them/a") == {"heads/main": "b" * 40, "heads/v1": "c" * 40}
    local = store.commit("them/a", "heads/main", Draft("mine", "", "mirror"))  # a user may be called so
    assert mirrored(store, "them/a", "d" * 40) == "main"
    assert store.resolve("them/a", "main") == local
    assert store.resolve("them/a", "d" * 40) == "d" * 40


def test_a_mirrored_commit_keeps_its_id_in_every_repo_that_has_it(store: Store) -> None:
    for repo in ("them/a", "them/copy"):
        mirrored(store, repo, "a" * 40, "a" * 40)
        assert store.resolve(repo, "a" * 40) == "a" * 40
        assert store.files(repo, "a" * 40).keys() == {"x"}
    store.delete_repo("them/a")
    assert store.files("them/copy", store.resolve("them/copy", "main")).keys() == {"x"}


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.database() as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(Refused, match="has format 1; expected 3"):
        Store(tmp_path)
