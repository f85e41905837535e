"""Files on their way into the cache: resumed, started anew, refused; and copies in a cache without links."""

import re
import shutil
from pathlib import Path

import pytest
from faulty import FaultyHub
from huggingface_hub import HfApi, constants
from scripted import Answer, Scripted

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import sha256_of
from timm_backbones_ext.transport import PATIENCE, Repo

REPO, NAME = "transport/fetch", "model.safetensors"
CONTENT = b"".join(i.to_bytes(4, "big") for i in range(2_000_000))  # 8 MB, no two parts are equal


@pytest.fixture(autouse=True)
def _repo(local_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    api = HfApi()
    api.create_repo(REPO, exist_ok=True)
    if not api.file_exists(REPO, NAME):
        api.upload_file(path_or_fileobj=CONTENT, path_in_repo=NAME, repo_id=REPO)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(REPO, cache_dir=tmp_path)


def partial(repo: Repo, content: bytes) -> Path:
    """Leave a part of the file in the cache, as a process that was killed does."""
    path = repo.folder / "blobs" / f"{repo.contents()[NAME].etag}.incomplete"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def ranges(server: Scripted) -> list[str]:
    found = [{key.lower(): value for key, value in seen[2].items()} for seen in server.seen if "/resolve/" in seen[1]]
    return [headers.get("range", "") for headers in found]


def served(at: int, content: bytes = CONTENT, **kwargs: object) -> Answer:
    size = len(CONTENT)
    headers = {"Content-Range": f"bytes {at}-{size - 1}/{size}"}
    return Answer("/resolve/", 206, content, headers, **kwargs)


def test_a_part_of_a_killed_process_is_resumed(server: Scripted, repo: Repo) -> None:
    partial(repo, CONTENT[:1_000_000])
    server.answers.append(served(1_000_000, CONTENT[1_000_000:]))
    assert repo.file(NAME).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1000000-"]


def test_bytes_from_another_place_than_asked_for_are_not_appended(server: Scripted, repo: Repo) -> None:
    """A 206 whose Content-Range does not begin where the file ends: the whole file from byte 0."""
    partial(repo, CONTENT[:1_000_000])
    server.answers.append(served(0, times=1))
    assert repo.file(NAME).read_bytes() == CONTENT
    assert len(ranges(server)) == 1, "appended, found wrong and fetched anew"


@pytest.mark.parametrize("said", ["", "bytes", "bytes ²-3/4", "bytes */8000000", "items 1000000-7999999/8000000"])
def test_a_content_range_that_cannot_be_read_is_not_trusted(said: str, server: Scripted, repo: Repo) -> None:
    partial(repo, CONTENT[:1_000_000])
    raw = said.encode().decode("latin-1")
    server.answers.append(Answer("/resolve/", 206, CONTENT, {"Content-Range": raw}, times=1))
    assert repo.file(NAME).read_bytes() == CONTENT
    assert len(ranges(server)) == 1


def test_a_part_that_the_server_has_no_more_of_is_thrown_away(server: Scripted, repo: Repo) -> None:
    left = partial(repo, CONTENT[:1_000_000])
    server.answers.append(Answer("/resolve/", 416, times=1))
    assert repo.file(NAME).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1000000-", ""]
    assert not left.exists()


def test_a_damaged_part_is_thrown_away_and_the_file_fetched_anew(server: Scripted, repo: Repo) -> None:
    partial(repo, b"\0" * 1_000_000)
    assert repo.file(NAME).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1000000-", ""]


def test_patience_starts_anew_whenever_bytes_arrive(local_hub: FaultyHub, repo: Repo, monkeypatch) -> None:
    monkeypatch.setattr(PATIENCE, "first_wait", 0.001)
    local_hub.faults({"kind": "cut", "where": "/storage/", "at": 1_200_000, "times": -1})
    assert repo.file(NAME).read_bytes() == CONTENT
    asked = [seen for seen in local_hub.faults() if "/storage/" in seen[1]]
    assert len(asked) > PATIENCE.attempts


def test_patience_ends_when_nothing_arrives(local_hub: FaultyHub, repo: Repo) -> None:
    local_hub.faults({"kind": "reset", "where": "/storage/", "times": -1})
    with pytest.raises(tbx.HubError, match=r"tried 6 times to get model.safetensors"):
        repo.file(NAME)
    asked = [seen for seen in local_hub.faults() if "/storage/" in seen[1]]
    assert len(asked) == PATIENCE.attempts


def test_the_last_error_says_what_was_tried_and_what_has_arrived(local_hub: FaultyHub, repo: Repo) -> None:
    local_hub.faults(
        {"kind": "cut", "where": "/storage/", "at": 5_000_000},
        {"kind": "status", "where": "/storage/", "status": 503, "times": -1},
    )
    said = (
        r"answered 503: .*\(tried 6 times to get model.safetensors; 4,194,304 of 8,000,000 bytes are here, and the next"
    )
    with pytest.raises(tbx.HubError, match=said):
        repo.file(NAME)
    local_hub.faults()
    assert repo.file(NAME).read_bytes() == CONTENT
    assert next(seen[2] for seen in local_hub.faults() if "/storage/" in seen[1]) == "bytes=4194304-"


def test_a_file_that_ends_before_the_size_that_the_hub_says_is_not_fetched_for_ever(
    server: Scripted, repo: Repo
) -> None:
    """The part is thrown away after status 416, so that the same bytes arrive again and again."""
    server.answers.append(Answer("/api/models/", change=lambda body: body.replace(b"8000000", b"9000000")))
    with pytest.raises(tbx.HubError, match=r"tried 6 times to get model.safetensors"):
        repo.file(NAME)


def test_a_file_larger_than_the_disk_is_not_asked_for(server: Scripted, repo: Repo) -> None:
    free = shutil.disk_usage(repo.folder.parent).free
    server.answers.append(
        Answer(
            "/api/models/",
            change=lambda body: re.sub(rb'"size": ?8000000', f'"size": {100 * free}'.encode(), body),
        )
    )
    with pytest.raises(tbx.HubError, match=r"model.safetensors needs [\d,]+ more bytes, and .* has [\d,]+; free some"):
        repo.file(NAME)
    assert ranges(server) == []
    assert not list(repo.folder.rglob("*.incomplete"))


def test_a_copy_in_a_cache_without_links_is_hashed(server: Scripted, repo: Repo, tmp_path: Path) -> None:
    """On Windows the snapshot holds copies; nothing but their content says what they are."""
    path = repo.file(NAME)
    path.unlink()
    path.write_bytes(b"\1" + CONTENT[1:])
    again = Repo(REPO, repo.commit, cache_dir=tmp_path).file(NAME)
    assert again.read_bytes() == CONTENT


def test_a_locked_copy_in_a_cache_without_links_is_hashed(server: Scripted, repo: Repo, tmp_path: Path) -> None:
    path = repo.file(NAME)
    pinned = {NAME: sha256_of(path)}
    path.unlink()
    path.write_bytes(CONTENT)
    server.seen.clear()
    assert Repo(REPO, repo.commit, cache_dir=tmp_path, pinned=pinned).file(NAME).read_bytes() == CONTENT
    assert server.seen == [], "a right copy needs no request"
    path.write_bytes(b"\1" + CONTENT[1:])
    assert Repo(REPO, repo.commit, cache_dir=tmp_path, pinned=pinned).file(NAME).read_bytes() == CONTENT


def test_a_link_to_a_damaged_blob_is_not_taken(repo: Repo, tmp_path: Path) -> None:
    blob = repo.file(NAME).resolve()
    blob.write_bytes(b"\1" + CONTENT[1:])
    assert Repo(REPO, repo.commit, cache_dir=tmp_path).file(NAME).read_bytes() == CONTENT


def test_a_ref_in_the_cache_that_is_no_commit_is_not_a_path(server: Scripted, repo: Repo, tmp_path: Path) -> None:
    repo.file(NAME)
    (repo.folder / "refs" / "main").write_text("../../evil")
    assert Repo(REPO, cache_dir=tmp_path).commit == repo.commit


@pytest.mark.parametrize(("expired", "waits"), [(2, 0), (3, 1)])
def test_two_links_that_expired_are_renewed_at_once_and_a_third_is_a_failure(
    expired: int, waits: int, server: Scripted, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(type(PATIENCE), "wait", lambda self, failures, *rest: waited.append(failures))
    server.answers.append(Answer("/resolve/", 302, headers={"Location": f"{server.endpoint}/signed/x"}, method="GET"))
    server.answers.append(Answer("/signed/", 403, times=expired))
    server.answers.append(Answer("/signed/", 200, CONTENT))
    assert repo.file(NAME).read_bytes() == CONTENT
    assert len(waited) == waits
