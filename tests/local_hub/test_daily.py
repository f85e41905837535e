"""The local Hub in daily use, seen by the real client."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import FaultyHub
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi, RepoFile, RepoFolder, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from talking import api, ask, upload

from timm_backbones_ext.local_hub import LocalHub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def client(hub: LocalHub) -> HfApi:
    made = api(hub)
    made.create_repo("me/a")
    return made


def fetched(hub: LocalHub, cache: Path) -> Path:
    return Path(snapshot_download("me/a", endpoint=hub.endpoint, cache_dir=cache, token="any"))


def test_what_goes_up_comes_down(hub: LocalHub, client: HfApi, tmp_path: Path) -> None:
    large = os.urandom(3_000_000)
    commit = upload(client, "me/a", small__txt=b"small", large__safetensors=large)
    folder = fetched(hub, tmp_path / "cache")
    assert folder.name == commit
    assert (folder / "small.txt").read_bytes() == b"small"
    assert (folder / "large.safetensors").read_bytes() == large


def test_xet_takes_uploads_and_leaves_nothing_but_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    first = os.urandom(3_000_000)
    contents = {"first.bin": first, "longer.bin": first + os.urandom(200_000), "zeros.bin": bytes(20_000_000)}
    with FaultyHub(tmp_path / "hub") as hub:
        api(hub).create_repo("me/a")
        for name, content in contents.items():  # the second shares chunks with the first
            api(hub).upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="me/a")
        asked = [path for _, path, *_ in hub.faults()]
        assert sum(path.endswith("/v1/shards") for path in asked) == 3
        assert not any("/storage/" in path for path in asked)
        assert list((hub.root / "xet").iterdir()) == []
        folder = fetched(hub, tmp_path / "cache")
        assert not any("/xet/" in path or "xet-read" in path for _, path, *_ in hub.faults())
        _, _, headers = ask(hub, "HEAD", "/me/a/resolve/main/first.bin")
        assert not [key for key in headers if "xet" in key + headers[key]]
    for name, content in contents.items():
        assert (folder / name).read_bytes() == content


def test_a_large_file_that_is_uploaded_again_is_not_sent_again(hub: LocalHub, client: HfApi) -> None:
    upload(client, "me/a", x__safetensors=b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    asked = {"operation": "upload", "objects": [{"oid": sha256, "size": 7}]}
    _, answer, _ = ask(hub, "POST", "/me/a.git/info/lfs/objects/batch", asked)
    assert answer["objects"] == [{"oid": sha256, "size": 7}]
    asked["operation"] = "download"
    _, answer, _ = ask(hub, "POST", "/me/a.git/info/lfs/objects/batch", asked)
    assert ask(hub, "GET", answer["objects"][0]["actions"]["download"]["href"], token=None)[1] == b"content"


def test_branches_tags_and_history_are_kept(client: HfApi) -> None:
    first = upload(client, "me/a", x__txt=b"1")
    client.create_tag("me/a", tag="v1")
    client.create_branch("me/a", branch="dev")
    second = upload(client, "me/a", x__txt=b"2")
    assert client.repo_info("me/a", revision="v1").sha == client.repo_info("me/a", revision="dev").sha == first
    assert [commit.commit_id for commit in client.list_repo_commits("me/a")][:2] == [second, first]
    client.delete_branch("me/a", branch="dev")
    with pytest.raises(RevisionNotFoundError):
        client.repo_info("me/a", revision="dev")


def test_a_commit_is_found_before_a_branch_of_its_name(hub: LocalHub, client: HfApi) -> None:
    first = upload(client, "me/a", x__txt=b"1")
    second = upload(client, "me/a", x__txt=b"2")
    with hub.store.database(write=True) as db:  # as another version may have left it
        db.execute("INSERT INTO refs VALUES ('me/a', ?, ?)", (f"heads/{first}", second))
    assert client.repo_info("me/a", revision=first).sha == first


def test_pull_requests_are_opened_closed_and_merged(client: HfApi) -> None:
    change = [CommitOperationAdd("x.txt", b"1")]
    commit = client.create_commit("me/a", change, commit_message="A change", create_pr=True)
    assert commit.pr_num == 1
    assert client.change_discussion_status("me/a", 1, "closed").new_status == "closed"
    with pytest.raises(HfHubHTTPError, match="pull request 1 is closed"):
        client.merge_pull_request("me/a", 1)
    client.change_discussion_status("me/a", 1, "open")
    assert "x.txt" not in client.list_repo_files("me/a")
    client.merge_pull_request("me/a", 1)
    about = client.get_discussion_details("me/a", 1)
    assert (about.title, about.status, about.merge_commit_oid) == ("A change", "merged", commit.oid)
    assert "x.txt" in client.list_repo_files("me/a")
    client.create_pull_request("me/a", "A draft")
    upload(client, "me/a", y__txt=b"2")
    client.upload_file(path_or_fileobj=b"3", path_in_repo="z.txt", repo_id="me/a", revision="refs/pr/2")
    assert client.get_discussion_details("me/a", 2).conflicting_files
    with pytest.raises(HfHubHTTPError, match="has got other commits since"):
        client.merge_pull_request("me/a", 2)
    found = [(item.num, item.title, item.status, item.is_pull_request) for item in client.get_repo_discussions("me/a")]
    assert found == [(2, "A draft", "open", True), (1, "A change", "merged", True)]


def test_discussions_and_comments_are_refused_and_nothing_that_was_said_is_dropped_in_silence(client: HfApi) -> None:
    client.create_pull_request("me/a", "A draft")
    for call in (
        lambda: client.create_discussion("me/a", "A question", description="Why?"),
        lambda: client.comment_discussion("me/a", 1, "Good"),
        lambda: client.change_discussion_status("me/a", 1, "closed", comment="Later"),
        lambda: client.merge_pull_request("me/a", 1, comment="Thanks"),
        lambda: client.rename_discussion("me/a", 1, "Another"),
    ):
        with pytest.raises(HfHubHTTPError, match="keeps pull requests, and neither discussions nor comments"):
            call()
    assert client.get_discussion_details("me/a", 1).status == "open"


def nested(client: HfApi) -> None:
    paths = ("keep.txt", "folder/a.txt", "folder/b.bin", "folder/deep/c.txt")
    client.create_commit("me/a", [CommitOperationAdd(path, path.encode()) for path in paths], commit_message="x")


def test_trees_list_folders_and_unknown_folders_are_errors(client: HfApi) -> None:
    nested(client)
    here = {item.path: type(item) for item in client.list_repo_tree("me/a")}
    assert here == {".gitattributes": RepoFile, "keep.txt": RepoFile, "folder": RepoFolder}
    below = {item.path: type(item) for item in client.list_repo_tree("me/a", recursive=True)}
    assert (below.pop("folder/deep"), below.pop("folder")) == (RepoFolder, RepoFolder)
    assert below.keys() == {".gitattributes", "keep.txt", "folder/a.txt", "folder/b.bin", "folder/deep/c.txt"}
    for path in ("absent", "keep.txt", "fold"):
        with pytest.raises(EntryNotFoundError):
            list(client.list_repo_tree("me/a", path))


def test_paths_are_asked_for_as_a_form(client: HfApi) -> None:
    nested(client)
    found = client.get_paths_info("me/a", ["folder", "keep.txt", "folder/b.bin", "absent"])
    assert [(type(item), item.path) for item in found] == [
        *((RepoFolder, "folder"), (RepoFile, "keep.txt"), (RepoFile, "folder/b.bin"))
    ]
    assert found[2].lfs.sha256 == hashlib.sha256(b"folder/b.bin").hexdigest()


@pytest.mark.parametrize("path", ["folder", "folder/"])
def test_folders_are_deleted_with_and_without_a_slash(client: HfApi, hub: LocalHub, path: str) -> None:
    nested(client)
    body = b'{"key": "header", "value": {"summary": "x"}}\n{"key": "deletedFolder", "value": {"path": "%s"}}'
    assert ask(hub, "POST", "/api/models/me/a/commit/main", body % path.encode())[0] == 200
    assert client.list_repo_files("me/a") == [".gitattributes", "keep.txt"]
    assert ask(hub, "POST", "/api/models/me/a/commit/main", body % path.encode())[0] == 404


def test_files_are_copied_by_reference(client: HfApi) -> None:
    upload(client, "me/a", x__safetensors=b"large", small__txt=b"small")
    client.create_repo("me/b")
    change = [CommitOperationCopy("x.safetensors", "y.safetensors"), CommitOperationCopy("small.txt", "other.txt")]
    client.create_commit("me/a", change, commit_message="copied")
    infos = {item.path: item for item in client.get_paths_info("me/a", ["x.safetensors", "y.safetensors"])}
    assert infos["y.safetensors"].lfs.sha256 == infos["x.safetensors"].lfs.sha256
    assert "other.txt" in client.list_repo_files("me/a")


def test_a_file_and_a_folder_of_one_name_are_refused(client: HfApi) -> None:
    nested(client)
    for path in ("folder", "keep.txt/x"):
        with pytest.raises(HfHubHTTPError, match="cannot be a file and a folder"):
            client.upload_file(path_or_fileobj=b"x", path_in_repo=path, repo_id="me/a")


def test_a_commit_on_an_old_state_is_refused(client: HfApi) -> None:
    first = upload(client, "me/a", x__txt=b"1")
    upload(client, "me/a", x__txt=b"2")
    with pytest.raises(HfHubHTTPError, match="412"):
        client.create_commit("me/a", [CommitOperationAdd("y", b"3")], commit_message="late", parent_commit=first)


def test_gates_and_renames_are_refused_in_the_hub_s_own_form(client: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="does not gate repos; make it private"):
        client.update_repo_settings("me/a", gated="auto")
    with pytest.raises(HfHubHTTPError, match="does not rename repos; push to the new id"):
        client.move_repo("me/a", "me/b")
    with pytest.raises(HfHubHTTPError, match="holds models only"):
        client.create_repo("me/data", repo_type="dataset")


PULLER = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("me/a", endpoint=sys.argv[1], cache_dir=sys.argv[2]))
"""


def test_four_processes_pull_at_once(hub: LocalHub, client: HfApi, tmp_path: Path) -> None:
    upload(client, "me/a", large__safetensors=os.urandom(5_000_000))
    command = [sys.executable, "-c", PULLER, hub.endpoint, str(tmp_path / "cache")]
    pullers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {puller.communicate(timeout=120)[0].strip() for puller in pullers}
    assert [puller.returncode for puller in pullers] == [0] * 4
    (folder,) = folders
    assert Path(folder, "large.safetensors").stat().st_size == 5_000_000
