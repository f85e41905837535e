"""The local Hub, seen by the real client and by strangers."""

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty import FaultyHub
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from timm_backbones_ext.hub.fsck import fsck
from timm_backbones_ext.hub.local import LocalHub, parse_token, serve
from timm_backbones_ext.hub.store import Conflict, File, NotFound, Store, checked_path
from timm_backbones_ext.hub.xet import Xet


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as running:
        yield running


def api(hub: LocalHub, token: str | bool = "any") -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=token)


def upload(client: HfApi, repo: str, **files: bytes) -> str:
    operations = [CommitOperationAdd(name.replace("__", "."), content) for name, content in files.items()]
    return client.create_commit(repo, operations, commit_message="files").oid


def test_what_goes_up_comes_down(hub: LocalHub, tmp_path: Path) -> None:
    api(hub).create_repo("me/a")
    large = os.urandom(3_000_000)
    commit = upload(api(hub), "me/a", small__txt=b"small", large__safetensors=large)
    folder = Path(snapshot_download("me/a", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
    assert folder.name == commit
    assert (folder / "small.txt").read_bytes() == b"small"
    assert (folder / "large.safetensors").read_bytes() == large


def test_branches_tags_and_history_are_kept(hub: LocalHub) -> None:
    client = api(hub)
    client.create_repo("me/a")
    first = upload(client, "me/a", x__txt=b"1")
    client.create_tag("me/a", tag="v1")
    client.create_branch("me/a", branch="dev")
    second = upload(client, "me/a", x__txt=b"2")
    assert client.repo_info("me/a", revision="v1").sha == client.repo_info("me/a", revision="dev").sha == first
    assert [commit.commit_id for commit in client.list_repo_commits("me/a")][:2] == [second, first]
    client.delete_branch("me/a", branch="dev")
    with pytest.raises(RevisionNotFoundError):
        client.repo_info("me/a", revision="dev")


def test_discussions_and_pull_requests_are_opened_commented_closed_and_merged(hub: LocalHub) -> None:
    client = api(hub)
    client.create_repo("me/a")
    assert client.create_discussion("me/a", "A question", description="Why?").num == 1
    change = [CommitOperationAdd("x.txt", b"1")]
    commit = client.create_commit("me/a", change, commit_message="A change", create_pr=True)
    assert commit.pr_num == 2
    assert client.comment_discussion("me/a", 2, "Good").content == "Good"
    assert client.change_discussion_status("me/a", 2, "closed", comment="Later").new_status == "closed"
    with pytest.raises(HfHubHTTPError, match="is closed; open it again"):
        client.merge_pull_request("me/a", 2)
    client.change_discussion_status("me/a", 2, "open")
    assert client.list_repo_files("me/a") == []
    client.merge_pull_request("me/a", 2, comment="Thanks")
    about = client.get_discussion_details("me/a", 2)
    assert (about.title, about.status, about.merge_commit_oid) == ("A change", "merged", commit.oid)
    assert [getattr(event, "content", None) or event.new_status for event in about.events] == [
        *("Good", "Later", "closed", "open", "Thanks", "merged")
    ]
    assert client.list_repo_files("me/a") == ["x.txt"]
    client.create_pull_request("me/a", "A draft")
    upload(client, "me/a", y__txt=b"2")
    client.upload_file(path_or_fileobj=b"3", path_in_repo="z.txt", repo_id="me/a", revision="refs/pr/3")
    assert client.get_discussion_details("me/a", 3).conflicting_files
    with pytest.raises(HfHubHTTPError, match="has got other commits since"):
        client.merge_pull_request("me/a", 3)
    found = [(item.num, item.title, item.status, item.is_pull_request) for item in client.get_repo_discussions("me/a")]
    assert found == [
        (3, "A draft", "open", True),
        (2, "A change", "merged", True),
        (1, "A question", "open", False),
    ]
    client.move_repo("me/a", "me/b")
    assert client.get_discussion_details("me/b", 1).events[0].content == "Why?"


def test_files_and_folders_are_deleted(hub: LocalHub) -> None:
    client = api(hub)
    client.create_repo("me/a")
    for name in ("keep.txt", "folder/a.txt", "folder/b.txt"):
        client.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="me/a")
    assert {item.path for item in client.list_repo_tree("me/a")} == {"keep.txt", "folder"}
    client.delete_folder("folder", "me/a")
    assert client.list_repo_files("me/a") == ["keep.txt"]


def test_a_commit_on_an_old_state_is_refused(hub: LocalHub) -> None:
    client = api(hub)
    client.create_repo("me/a")
    first = upload(client, "me/a", x__txt=b"1")
    upload(client, "me/a", x__txt=b"2")
    with pytest.raises(HfHubHTTPError, match="412"):
        client.create_commit("me/a", [CommitOperationAdd("y", b"3")], commit_message="late", parent_commit=first)


def test_tokens_say_who_may_read_and_write(tmp_path: Path) -> None:
    tokens = {"secret": ("me", True), "reader": ("guest", False)}
    with LocalHub(tmp_path, tokens=tokens) as hub:
        writer, reader, stranger = api(hub, "secret"), api(hub, "reader"), api(hub, False)
        assert writer.whoami()["name"] == "me"
        writer.create_repo("me/hidden", private=True)
        upload(writer, "me/hidden", x__safetensors=b"content")
        assert reader.list_repo_files("me/hidden") == ["x.safetensors"]
        with pytest.raises(HfHubHTTPError, match="403"):
            upload(reader, "me/hidden", y__txt=b"")
        with pytest.raises(RepositoryNotFoundError) as caught:
            stranger.repo_info("me/hidden")
        assert caught.value.response.status_code == 404
        with pytest.raises(HfHubHTTPError, match="401"):
            api(hub, "made-up").repo_info("me/hidden")
        writer.update_repo_settings("me/hidden", private=False)
        assert stranger.list_repo_files("me/hidden") == ["x.safetensors"]


def test_content_is_served_to_nobody_without_a_link(hub: LocalHub) -> None:
    api(hub).create_repo("me/a")
    upload(api(hub), "me/a", x__safetensors=b"content")
    sha256 = hub.store.files(hub.store.resolve("me/a", "main"))["x.safetensors"].sha256
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{hub.endpoint}/storage/{sha256}?until=99999999999&sign=0")


def test_content_with_a_wrong_hash_is_rejected(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(Conflict, match="expected content with sha256"), store.incoming("0" * 64) as file:
        file.write(b"something else")
    assert [path for path in store.blobs.rglob("*") if path.is_file()] == []
    store.create_repo("me/a")
    with pytest.raises(Conflict, match="was not uploaded"):
        store.commit("me/a", "heads/main", title="x", add={"x": File("x", "0" * 64, 1, "0" * 40, lfs=True)})


def test_an_upload_of_another_content_than_it_said_is_rejected(hub: LocalHub) -> None:
    api(hub).create_repo("me/a")
    sha256 = hashlib.sha256(b"what was said").hexdigest()
    asked = {"operation": "upload", "objects": [{"oid": sha256, "size": 13}]}
    with send(f"{hub.endpoint}/me/a.git/info/lfs/objects/batch", "POST", json.dumps(asked).encode()) as answer:
        link = json.load(answer)["objects"][0]["actions"]["upload"]["href"]
    assert refused(link, "PUT", b"what was sent") == 400
    assert not hub.store.blob(sha256).exists()


def shard(sha256: str, xorb: str, size: int) -> bytes:
    """What Xet's client sends to say that a file is the one chunk of a xorb."""
    name, flags = bytes.fromhex("11" * 32), 1 << 30
    file = name + struct.pack("<II8x", flags, 1) + bytes.fromhex(xorb) + struct.pack("<IIII", 0, size, 0, 1)
    words = struct.pack("<4Q", *(int(sha256[at : at + 16], 16) for at in range(0, 64, 16)))
    return bytes(48) + file + words + bytes(16) + b"\xff" * 32


def test_xet_keeps_a_file_only_if_its_chunks_make_it_and_fsck_sees_damage(hub: LocalHub) -> None:
    store, content, xorb = hub.store, b"one chunk", "22" * 32
    xet = Xet(store)
    packed = b"\0" + len(content).to_bytes(3, "little") + b"\0" + len(content).to_bytes(3, "little") + content
    xet.put_xorb(xorb, packed)
    with pytest.raises(Conflict, match="expected content with sha256 0000"):
        xet.register(shard("0" * 64, xorb, len(content)))
    sha256 = hashlib.sha256(content).hexdigest()
    xet.register(shard(sha256, xorb, len(content)))
    assert store.blob(sha256).read_bytes() == content
    assert fsck(hub.root) == []
    xet.xorb(xorb).write_bytes(packed.replace(b"one", b"two"))
    assert fsck(hub.root) == [f"damaged in Xet: {sha256} (the chunks make other content)"]
    xet.xorb(xorb).unlink()
    assert fsck(hub.root) == [f"damaged in Xet: {sha256} (xorb {xorb} was not uploaded)"]


def test_by_default_the_client_uploads_and_downloads_by_xet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    content = os.urandom(3_000_000)
    with FaultyHub(tmp_path / "hub") as hub:
        api(hub).create_repo("me/a")
        upload(api(hub), "me/a", large__safetensors=content)
        hub.faults()
        path = api(hub).hf_hub_download("me/a", "large.safetensors", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == content
        asked = [path for _, path, *_ in hub.faults()]
    assert any("/v1/reconstructions/" in path for path in asked)
    assert any("/xet/xorb/" in path for path in asked)


def send(url: str, method: str, body: bytes | None = None) -> Any:
    """The answer to what a client without manners sends."""
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method))


def refused(url: str, method: str, body: bytes | None = None) -> int:
    """The status of an answer that is an error."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        send(url, method, body)
    caught.value.close()
    return caught.value.code


@pytest.mark.parametrize("path", ["../../../etc/passwd", "..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "x%00"])
def test_no_request_leaves_the_root(hub: LocalHub, path: str) -> None:
    api(hub).create_repo("me/a")
    for place in (f"/me/a/resolve/main/{path}", f"/storage/{path}", f"/xet/xorb/{path}", f"/api/models/{path}"):
        assert 400 <= refused(hub.endpoint + place, "GET") < 500
    file = {"key": "file", "value": {"path": urllib.parse.unquote(path), "content": "eA==", "encoding": "base64"}}
    lines = [{"key": "header", "value": {"summary": "x"}}, file]
    body = "\n".join(map(json.dumps, lines)).encode()
    assert refused(f"{hub.endpoint}/api/models/me/a/commit/main", "POST", body) == 409
    assert api(hub).list_repo_files("me/a") == []


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a\\x", "a//x", "", ".git/config", "a/.", "x\0"])
def test_path_names_cannot_leave_the_repo(path: str) -> None:
    with pytest.raises(Conflict, match="no path inside a repo"):
        checked_path(path)


@pytest.mark.parametrize("repo", ["../a", "a", "a/b/c", "a/..", "a/-b", ".git/b"])
def test_repo_ids_cannot_leave_the_root(repo: str, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="no repo id"):
        Store(tmp_path).create_repo(repo)


KILLED = """
import os, signal, sys
from timm_backbones_ext.hub import store
hub = store.Store(sys.argv[1])
content = hub.put(b"new")
original = hub._insert_commit
def insert(*args):
    original(*args)
    os.kill(os.getpid(), signal.SIGKILL)
hub._insert_commit = insert
hub.commit("me/a", "heads/main", title="half", add={"x": store.File("x", content, 3, "0" * 40, lfs=False)})
"""


def test_a_kill_in_the_middle_of_a_commit_leaves_the_old_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create_repo("me/a")
    before = store.resolve("me/a", "main")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Store(tmp_path).resolve("me/a", "main") == before
    assert Store(tmp_path).files(before) == {}
    assert fsck(tmp_path) == []


def test_fsck_names_what_is_damaged_and_what_is_missing(hub: LocalHub) -> None:
    api(hub).create_repo("me/a")
    upload(api(hub), "me/a", a__txt=b"first", b__txt=b"second", c__txt=b"third")
    assert fsck(hub.root) == []
    files = hub.store.files(hub.store.resolve("me/a", "main"))
    hub.store.blob(files["a.txt"].sha256).unlink()
    hub.store.blob(files["b.txt"].sha256).write_bytes(b"sEcond")
    hub.store.blob(files["c.txt"].sha256).write_bytes(b"thi")
    problems = "\n".join(fsck(hub.root))
    assert f"missing: {files['a.txt'].sha256} (needed by me/a a.txt at" in problems
    assert f"damaged: {files['b.txt'].sha256}" in problems
    assert f"3 bytes instead of 5: {files['c.txt'].sha256}" in problems
    with pytest.raises(NotFound, match="holds no local Hub"):
        fsck(hub.root / "absent")


def listening(endpoint: str) -> bool:
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def gone(endpoint: str) -> bool:
    deadline = time.monotonic() + 20
    while listening(endpoint) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not listening(endpoint)


def test_nothing_listens_when_it_has_ended(tmp_path: Path) -> None:
    with LocalHub(tmp_path) as hub:
        assert listening(hub.endpoint)
    assert gone(hub.endpoint)


def test_it_ends_with_its_parent_also_when_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, signal
from timm_backbones_ext.hub.local import LocalHub
with LocalHub({str(tmp_path)!r}) as hub:
    print(hub.endpoint, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert gone(done.stdout.strip())


PULLER = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("me/a", endpoint=sys.argv[1], cache_dir=sys.argv[2]))
"""


def test_four_processes_pull_at_once(hub: LocalHub, tmp_path: Path) -> None:
    api(hub).create_repo("me/a")
    upload(api(hub), "me/a", large__safetensors=os.urandom(5_000_000))
    command = [sys.executable, "-c", PULLER, hub.endpoint, str(tmp_path / "cache")]
    pullers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {puller.communicate(timeout=120)[0].strip() for puller in pullers}
    assert [puller.returncode for puller in pullers] == [0] * 4
    (folder,) = folders
    assert Path(folder, "large.safetensors").stat().st_size == 5_000_000


def test_the_hub_outlives_its_process(tmp_path: Path) -> None:
    with LocalHub(tmp_path) as hub:
        api(hub).create_repo("me/a")
        commit = upload(api(hub), "me/a", x__txt=b"kept")
    with LocalHub(tmp_path) as hub:
        assert api(hub).repo_info("me/a").sha == commit


def test_other_machines_are_let_in_only_on_purpose_and_with_tokens(tmp_path: Path) -> None:
    for kwargs in ({}, {"allow_remote": True}, {"tokens": {"x": ("me", True)}}):
        with pytest.raises(ValueError, match="needs allow_remote=True and tokens"):
            serve(tmp_path, host="0.0.0.0", **kwargs)


def test_tokens_are_read_from_text() -> None:
    assert parse_token("secret=me") == ("secret", ("me", True))
    assert parse_token("secret=me:read") == ("secret", ("me", False))
    with pytest.raises(ValueError, match="expected TOKEN=USER"):
        parse_token("secret=me:admin")


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"name": ".."}'])
def test_a_request_that_makes_no_sense_is_an_error_and_not_a_crash(hub: LocalHub, body: bytes) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        send(f"{hub.endpoint}/api/repos/create", "POST", body)
    assert 400 <= caught.value.code < 500
    assert "error" in json.loads(caught.value.read())
