"""Answers of a server that is broken or hostile: each ends in a HubError, and nothing is written outside the cache."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import FaultyHub
from huggingface_hub import HfApi
from scripted import Answer, Scripted

import timm_backbones_ext as tbx
from timm_backbones_ext.transport import Repo

REPO, NAME, CONTENT = "transport/answers", "data.bin", bytes(range(256)) * 40
SHA = "0" * 40


@pytest.fixture(autouse=True)
def _repo(local_hub: FaultyHub) -> None:
    api = HfApi()
    api.create_repo(REPO, exist_ok=True)
    api.upload_file(path_or_fileobj=CONTENT, path_in_repo=NAME, repo_id=REPO)


def info(change: Callable[[dict[str, Any]], Any], where: str = "/api/models/") -> Answer:
    """The Hub's answer about the repo, changed."""

    def changed(body: bytes) -> bytes:
        content = json.loads(body)
        new = change(content)
        return json.dumps(content if new is None else new).encode()

    return Answer(where, change=changed)


def sibling(**entries: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for item in content["siblings"]:
            if item["rfilename"] == NAME:
                item.update(entries)
                for key in [key for key, value in entries.items() if value is KeyError]:
                    del item[key]

    return change


LFS = {"sha256": "0" * 64, "size": 5, "pointerSize": 1}
MALFORMED = {
    "no JSON": Answer("/api/models/", body=b"<html>"),
    "nothing": Answer("/api/models/", body=b""),
    "a list": info(lambda _: []),
    "a text": info(lambda _: "x"),
    "an empty object": info(lambda _: {}),
    "no id": info(lambda content: content.pop("id", None) and None),
    "no sha": info(lambda content: content.pop("sha") and None),
    "a sha that is a number": info(lambda content: content.update(sha=5)),
    "a sha that is null": info(lambda content: content.update(sha=None)),
    "a sha that is a path": info(lambda content: content.update(sha="../../../evil")),
    "a sha that is too short": info(lambda content: content.update(sha="abc")),
    "siblings that are a number": info(lambda content: content.update(siblings=5)),
    "siblings that are texts": info(lambda content: content.update(siblings=["x"])),
    "a sibling without a name": info(sibling(rfilename=KeyError)),
    "a name that is a number": info(sibling(rfilename=5)),
    "a size that is a text": info(sibling(size="large")),
    "a size below zero": info(sibling(size=-1)),
    "no blob id": info(sibling(blobId=KeyError)),
    "a blob id that is a path": info(sibling(blobId="../../../evil")),
    "a blob id of 64 digits": info(sibling(blobId="0" * 64)),
    "a sha256 that is a path": info(sibling(lfs={**LFS, "sha256": "../../../evil"})),
    "a sha256 that is a number": info(sibling(lfs={**LFS, "sha256": 5})),
    "a sha256 of 40 digits": info(sibling(lfs={**LFS, "sha256": SHA})),
    "LFS without a size": info(sibling(lfs={"sha256": "0" * 64})),
    "LFS that is a text": info(sibling(lfs="x")),
    "a date that is none": info(lambda content: content.update(lastModified="yesterday")),
    "an error that is a number": Answer("/api/models/", 400, b"5"),
    "errors that are numbers": Answer("/api/models/", 400, b'{"errors": [1, 2]}'),
    "errors that are null": Answer("/api/models/", 403, b'{"errors": {"a": null}}'),
    "a file's errors that are numbers": Answer("/resolve/", 400, b'{"errors": 7}'),
    "a redirect to nowhere": Answer("/resolve/", 302, headers={"Location": "http://["}),
    "a redirect to a file": Answer("/resolve/", 302, headers={"Location": "file:///etc/passwd"}),
    "a body that is not gzip": Answer("/resolve/", body=CONTENT, headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_ends_in_a_hub_error(name: str, server: Scripted, tmp_path: Path) -> None:
    MALFORMED[name].times = -1
    server.answers.append(MALFORMED[name])
    with pytest.raises(tbx.HubError) as caught:
        Repo(REPO, cache_dir=tmp_path / "a" / "b" / "cache").file(NAME)
    assert REPO in str(caught.value)
    assert not list(tmp_path.rglob("*evil*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == CONTENT]


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a//b", "a/../b", "..\\evil", "C:evil", "a\0b", ""])
def test_a_name_that_leads_out_of_the_cache_is_refused(name: str, server: Scripted, tmp_path: Path) -> None:
    server.answers.append(info(sibling(rfilename=name)))
    with pytest.raises(tbx.HubError, match=r"is not a path inside a repo; nothing was loaded"):
        Repo(REPO, cache_dir=tmp_path / "cache").file(name)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("value", ["²", "soon", "-5", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "", "9" * 400, "0x10"])
def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(
    value: str, server: Scripted, tmp_path: Path
) -> None:
    """`"²".isdigit()` is true, and `float("²")` raises."""
    raw = value.encode().decode("latin-1")
    server.answers.append(Answer("/api/models/", 503, headers={"Retry-After": raw}, times=2))
    assert Repo(REPO, cache_dir=tmp_path).file(NAME).read_bytes() == CONTENT


def test_a_retry_after_of_an_hour_is_neither_slept_through_nor_ignored(server: Scripted, tmp_path: Path) -> None:
    server.answers.append(Answer("/api/models/", 503, headers={"Retry-After": "3600"}))
    start = time.monotonic()
    with pytest.raises(tbx.HubError, match=r"tried 1 times; it asks to wait 3600 s"):
        Repo(REPO, cache_dir=tmp_path).file(NAME)
    assert time.monotonic() - start < 10
    assert len(server.seen) == 1


def test_a_short_retry_after_is_waited_for(server: Scripted, tmp_path: Path) -> None:
    server.answers.append(Answer("/api/models/", 429, headers={"Retry-After": "1"}, times=1))
    start = time.monotonic()
    Repo(REPO, cache_dir=tmp_path).file(NAME)
    assert time.monotonic() - start >= 1


def test_a_commit_that_was_not_asked_for_is_refused_and_not_remembered(server: Scripted, tmp_path: Path) -> None:
    """A branch with the name of a full commit sha: the Hub answers with another commit."""
    other = {"id": REPO, "sha": "1" * 40, "siblings": [{"rfilename": NAME, "size": 1, "blobId": SHA}]}
    server.answers.append(Answer(f"/revision/{SHA}", body=json.dumps(other).encode()))
    with pytest.raises(tbx.HubError, match=rf"asked for commit {SHA}, and the Hub answered with 1111"):
        Repo(REPO, SHA, cache_dir=tmp_path).file(NAME)
    assert not list(tmp_path.rglob("refs/*"))
    assert not list(tmp_path.rglob("snapshots/*"))


def test_a_renamed_repo_is_followed(server: Scripted, tmp_path: Path) -> None:
    def to(new: str) -> dict[str, str]:
        return {"Location": new}

    sha = HfApi().model_info(REPO).sha
    old = "transport/old-name"
    server.answers += [
        Answer(f"/api/models/{old}$", 307, headers=to(f"/api/models/{REPO}")),
        Answer(f"/api/models/{old}/revision/main", 307, headers=to(f"/api/models/{REPO}/revision/main?blobs=True")),
        Answer(f"^/{old}/resolve/", 307, headers=to(f"/{REPO}/resolve/{sha}/{NAME}")),
    ]
    assert Repo(old, cache_dir=tmp_path).file(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("GatedRepo", 403, "is gated: ask for access on its page, then run `hf auth login`"),
        ("RepoNotFound", 404, "no such repo, or a private one. If it is yours, run `hf auth login`"),
        ("RevisionNotFound", 404, "no such branch, tag or commit"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(code: str, status: int, said: str, server: Scripted, tmp_path: Path) -> None:
    server.answers.append(Answer("/api/models/", status, headers={"X-Error-Code": code}))
    with pytest.raises(tbx.HubError, match=re.escape(said)):
        Repo(REPO, cache_dir=tmp_path).file(NAME)
    server.answers = [Answer("/resolve/", status, headers={"X-Error-Code": code})]
    with pytest.raises(tbx.HubError, match=re.escape(said)):
        Repo(REPO, cache_dir=tmp_path).file(NAME)
