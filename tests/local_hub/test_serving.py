"""How a local Hub is started, reached and ended, and who may do what."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from talking import api, ask, upload, upload_link

from timm_backbones_ext.local_hub import LocalHub, User, serve
from timm_backbones_ext.local_hub.access import Tokens, parse_tokens

TOKENS = {"secret": User("me", "write", ("team",)), "reader": User("guest", "read"), "other": User("other")}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[LocalHub]:
    with LocalHub(tmp_path / "hub", TOKENS) as hub:
        yield hub


def test_private_repos_are_there_for_their_owners(guarded: LocalHub) -> None:
    mine, other, stranger = api(guarded, "secret"), api(guarded, "other"), api(guarded, False)
    mine.create_repo("me/hidden", private=True)
    upload(mine, "me/hidden", x__safetensors=b"content")
    assert mine.whoami()["orgs"][0]["name"] == "team"
    for client in (other, stranger):
        with pytest.raises(RepositoryNotFoundError) as caught:
            client.repo_info("me/hidden")
        assert caught.value.response.status_code == 404
        assert list(client.list_models()) == []
    assert [model.id for model in mine.list_models(author="me")] == ["me/hidden"]
    with pytest.raises(HfHubHTTPError, match="401"):
        api(guarded, "made-up").repo_info("me/hidden")
    mine.update_repo_settings("me/hidden", private=False)
    assert "x.safetensors" in stranger.list_repo_files("me/hidden")


def test_readers_read_their_own_private_repos(tmp_path: Path) -> None:
    tokens = {"write": User("me"), "read": User("me", "read")}
    with LocalHub(tmp_path, tokens) as hub:
        api(hub, "write").create_repo("me/hidden", private=True)
        assert [model.id for model in api(hub, "read").list_models()] == ["me/hidden"]
        assert api(hub, "read").list_repo_files("me/hidden") == [".gitattributes"]
        with pytest.raises(HfHubHTTPError, match="403"):
            upload(api(hub, "read"), "me/hidden", x__txt=b"")


def test_writers_write_in_their_own_and_their_teams_namespaces(guarded: LocalHub) -> None:
    mine, other = api(guarded, "secret"), api(guarded, "other")
    for repo in ("me/a", "team/a"):
        mine.create_repo(repo)
        upload(mine, repo, x__txt=b"x")
        with pytest.raises(HfHubHTTPError, match="403"):
            upload(other, repo, x__txt=b"y")
    with pytest.raises(HfHubHTTPError, match="other may not write to team/b"):
        other.create_repo("team/b")


def test_others_propose_changes_and_owners_merge_them(guarded: LocalHub) -> None:
    mine, other = api(guarded, "secret"), api(guarded, "other")
    mine.create_repo("me/a")
    change = [CommitOperationAdd("x.safetensors", os.urandom(2_000_000))]
    assert other.create_commit("me/a", change, commit_message="theirs", create_pr=True).pr_num == 1
    other.upload_file(path_or_fileobj=b"y", path_in_repo="y.txt", repo_id="me/a", revision="refs/pr/1")
    with pytest.raises(HfHubHTTPError, match="403"):
        other.merge_pull_request("me/a", 1)
    mine.merge_pull_request("me/a", 1)
    authors = [commit.authors for commit in mine.list_repo_commits("me/a")]
    assert authors == [["other"], ["other"], ["me"]]


def test_tokens_are_read_from_lines_and_never_repeated_in_errors() -> None:
    text = "# who\nme write secret team # that is me\n\nguest read other\n"
    assert parse_tokens(text) == {"secret": User("me", "write", ("team",)), "other": User("guest", "read")}
    for bad in ("me write", "me root hush", "me write hush\nyou read hush"):
        with pytest.raises(ValueError, match=r"line \d of the tokens: expected 'NAME") as caught:
            parse_tokens(bad)
        assert "hush" not in str(caught.value)


def test_a_changed_file_of_tokens_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tokens"
    file.write_text("me write old")
    file.chmod(0o644)
    tokens = Tokens(file=file)
    assert "others can read" in capsys.readouterr().err
    assert tokens.user("old") == User("me")
    file.write_text("me write new")
    os.utime(file, ns=(1, 1))
    assert (tokens.user("old"), tokens.user("new")) == (None, User("me"))
    file.write_text("no tokens")
    os.utime(file, ns=(2, 2))
    assert tokens.user("new") == User("me")
    assert "was not read again" in capsys.readouterr().err


def test_tokens_are_in_no_command_line(guarded: LocalHub) -> None:
    assert api(guarded, "secret").whoami()["name"] == "me"
    assert "secret" not in " ".join(guarded.process.args)


def test_the_database_is_the_user_s_alone(tmp_path: Path) -> None:
    with LocalHub(tmp_path) as hub:
        api(hub).create_repo("me/a")
        for path in tmp_path.glob("hub.sqlite*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_large_files_come_from_another_origin_and_behind_a_proxy_from_the_same(tmp_path: Path) -> None:
    with LocalHub(tmp_path / "two") as hub:
        api(hub).create_repo("me/a")
        assert not upload_link(hub, "me/a", "a" * 64, 3).startswith(hub.endpoint)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://localhost:{port}"
    with LocalHub(tmp_path / "one", port=port, storage_port=None, public_url=url) as hub:
        assert hub.endpoint == url
        api(hub).create_repo("me/a")
        content = os.urandom(2_000_000)
        upload(api(hub), "me/a", x__safetensors=content)
        assert upload_link(hub, "me/a", "a" * 64, 3).startswith(f"{url}/storage/")
        assert ask(hub, "GET", f"http://127.0.0.1:{port}/api/models", Host="localhost")[0] == 200
        assert ask(hub, "GET", "/api/models", Host="hub.example")[0] == 421
        folder = Path(snapshot_download("me/a", endpoint=url, cache_dir=tmp_path / "cache"))
        assert (folder / "x.safetensors").read_bytes() == content


def test_a_proxy_s_name_is_known(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with LocalHub(tmp_path, port=port, storage_port=None, public_url="https://hub.example") as hub:
        assert hub.endpoint == "https://hub.example"
        hub.endpoint = f"http://127.0.0.1:{port}"
        assert ask(hub, "GET", "/api/models", Host="hub.example")[0] == 200
        assert ask(hub, "GET", "/api/models", Host="other.example")[0] == 421
        _, made, _ = ask(hub, "POST", "/api/repos/create", {"name": "a", "organization": "me"})
        assert made["url"] == "https://hub.example/me/a"
        assert upload_link(hub, "me/a", "a" * 64, 3).startswith("https://hub.example/storage/")


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub", host="::1") as hub:
        assert hub.endpoint.startswith("http://[::1]:")
        api(hub).create_repo("me/a")
        upload(api(hub), "me/a", x__safetensors=b"content")
        folder = Path(snapshot_download("me/a", endpoint=hub.endpoint, cache_dir=tmp_path / "cache"))
        assert (folder / "x.safetensors").read_bytes() == b"content"


def test_other_machines_are_let_in_only_on_purpose_with_tokens_and_a_warning(tmp_path: Path) -> None:
    for kwargs in ({}, {"allow_remote": True}, {"tokens": {"x": User("me")}}):
        with pytest.raises(ValueError, match="needs allow_remote=True and tokens"):
            serve(tmp_path, host="0.0.0.0", **kwargs)
    code = (
        "import sys; from timm_backbones_ext.local_hub import *; serve(sys.argv[1], host='0.0.0.0', allow_remote=True, "
    )
    command = [sys.executable, "-c", code + "tokens={'x': User('me')})", str(tmp_path / "hub")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline().startswith('{"endpoint": "http://0.0.0.0:')
        server.terminate()
        assert "Warning: plain HTTP. The network can read tokens" in server.communicate(timeout=30)[1]


def test_one_who_waits_for_the_disk_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    with LocalHub(tmp_path) as hub:
        api(hub).create_repo("me/a")
        with hub.store.database(write=True):  # as a mirror that writes for a while
            waiting = threading.Thread(target=api(hub).create_tag, args=("me/a",), kwargs={"tag": "v1"})
            waiting.start()
            time.sleep(0.5)
            start = time.perf_counter()
            assert ask(hub, "GET", "/api/models/me/a")[0] == 200
            assert time.perf_counter() - start < 1
            assert waiting.is_alive()
        waiting.join()
        assert api(hub).list_repo_refs("me/a").tags[0].name == "v1"


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    with LocalHub(tmp_path), pytest.raises(ValueError, match="another server has"):
        serve(tmp_path, run=lambda app, sockets: None)
    with LocalHub(tmp_path) as hub:
        assert listening(hub.endpoint)


def test_a_folder_of_a_killed_server_is_free(tmp_path: Path) -> None:
    with LocalHub(tmp_path) as hub:
        api(hub).create_repo("me/a")
        hub.process.kill()
    with LocalHub(tmp_path) as hub:
        assert api(hub).list_repo_files("me/a") == [".gitattributes"]


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
from timm_backbones_ext.local_hub import LocalHub
with LocalHub({str(tmp_path)!r}) as hub:
    print(hub.endpoint, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert gone(done.stdout.strip())


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys, types
package = types.ModuleType("timm_backbones_ext")
package.__path__ = [sys.argv[1]]
sys.modules["timm_backbones_ext"] = package
import timm_backbones_ext.local_hub.server, timm_backbones_ext.local_hub.fsck
print(sorted({"torch", "timm", "numpy", "huggingface_hub"} & sys.modules.keys()))
"""
    package = Path(sys.modules["timm_backbones_ext"].__file__).parent
    done = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
