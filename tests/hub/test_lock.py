"""Lock files, from Python and from the command line: the same bytes arrive, or nothing does."""

from pathlib import Path

import pytest
import timm
from click.testing import CliRunner
from faulty import FaultyHub
from scripted import Answer, scripted

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import git_blob_id
from timm_backbones_ext.cli.main import main

REPO = "lock/backbone"


def test_a_lock_names_commit_and_hashes_and_nothing_else_is_taken(
    saved: Path, local_hub: FaultyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repo, run = "pull/locked", CliRunner().invoke
    first = tbx.push_to_hub(saved, repo).oid
    said = run(main, ["lock", "add", repo])
    assert said.exit_code == 0, said.output
    text = Path("backbones.lock").read_text()
    assert f'commit = "{first}"' in text
    assert '"model.safetensors" = "' in text
    second = tbx.push_to_hub(timm.create_model("ext_test_convnext", edits="eca", num_classes=3), repo).oid
    assert tbx.pull(repo, lock="backbones.lock").name == first
    assert tbx.pull(repo).name == second
    assert run(main, ["lock", "check"]).exit_code == 0
    local_hub.faults()
    tbx.pull(repo, lock="backbones.lock", check=False)
    assert local_hub.requests() == []
    said = run(main, ["lock", "update", repo])
    assert said.exit_code == 0, said.output
    assert tbx.pull(repo, lock="backbones.lock").name == second
    Path("backbones.lock").write_text(text.replace(first, second))  # the lock says one thing, the Hub another
    with pytest.raises(tbx.HubError, match=r"config.json has sha256 \w+; locked is|model.safetensors has sha256"):
        tbx.pull(repo, lock="backbones.lock")
    with pytest.raises(ValueError, match=r"locks pull/locked at main .*asked for v9"):
        tbx.pull(repo, "v9", lock="backbones.lock")
    with pytest.raises(ValueError, match=r"does not lock 'pull/other'.*timm-ext lock add pull/other"):
        tbx.pull("pull/other", lock="backbones.lock")
    with pytest.raises(FileNotFoundError, match="`timm-ext lock add OWNER/NAME` makes one"):
        tbx.pull(repo, lock="none.lock")
    Path("backbones.lock").write_text("[[backbone]]\nrepo = 1")
    with pytest.raises(ValueError, match="is not a lock file that this version reads"):
        tbx.pull(repo, lock="backbones.lock")


def test_locks_are_made_checked_and_updated_from_python(saved: Path, tmp_path: Path) -> None:
    repo, path = "lock/python", tmp_path / "backbones.lock"
    first = tbx.push_to_hub(saved, repo).oid
    entry = tbx.lock_add(repo, path=path)
    assert (entry.repo, entry.revision, entry.commit) == (repo, "main", first)
    assert set(entry.sha256) == {"model.safetensors", "config.json", "fingerprint.safetensors"}
    assert tbx.lock_check(path) == [entry]
    second = tbx.push_to_hub(saved, repo, label_names=["a", "b", "c"]).oid
    assert tbx.pull(repo, lock=path, check=False).name == first
    ((before, after),) = tbx.lock_update([repo], path=path)
    assert (before, after.commit) == (entry, second)
    assert tbx.lock_update(path=path) == [(after, after)]
    with pytest.raises(ValueError, match="does not lock 'lock/other'"):
        tbx.lock_update(["lock/other"], path=path)
    with pytest.raises(FileNotFoundError, match="no lock file"):
        tbx.lock_check(tmp_path / "none.lock")
    path.write_text(path.read_text().replace(second, first))
    with pytest.raises(tbx.HubError, match=r"has sha256 \w+; locked is"):
        tbx.lock_check(path)


def test_a_lock_takes_no_other_commit_than_the_one_it_names(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    """A hostile Hub has a branch with the name of the locked commit."""
    repo, path = "lock/hostile", tmp_path / "backbones.lock"
    first = tbx.push_to_hub(saved, repo).oid
    tbx.lock_add(repo, path=path)
    other = tbx.push_to_hub(saved, repo, label_names=["a", "b", "c"]).oid
    with scripted(local_hub.endpoint) as server:
        server.answers.append(
            Answer(f"/revision/{first}", change=lambda body: body.replace(first.encode(), other.encode()))
        )
        for call in (
            lambda: tbx.pull(repo, lock=path, cache_dir=tmp_path / "a"),
            lambda: tbx.pull(repo, first, cache_dir=tmp_path / "b"),
        ):
            with pytest.raises(tbx.HubError, match=f"asked for commit {first}, and the Hub answered with {other}"):
                call()
    assert not list(tmp_path.rglob(f"refs/{first}"))


def test_create_model_takes_no_other_commit_than_the_one_asked_for(
    saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    repo = "lock/created"
    first = tbx.push_to_hub(saved, repo).oid
    other = tbx.push_to_hub(saved, repo, label_names=["a", "b", "c"]).oid
    with scripted(local_hub.endpoint) as server:
        content = (saved / "config.json").read_bytes()
        headers = {"X-Repo-Commit": other, "ETag": f'"{git_blob_id(content)}"'}
        server.answers.append(Answer(f"/resolve/{first}/config.json", body=content, headers=headers))
        with pytest.raises(tbx.HubError, match=f"asked for this commit, and the Hub answered with {other}"):
            timm.create_model(f"hf-hub:{repo}@{first}", pretrained=True, cache_dir=tmp_path)
    assert timm.create_model(f"hf-hub:{repo}@{first}", pretrained=True, cache_dir=tmp_path / "fresh").num_classes == 3
