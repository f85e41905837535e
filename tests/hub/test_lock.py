"""Lock files, from Python and from the command line: the same bytes arrive, or nothing does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from faulty import FaultyHub

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli.main import main

REPO = "lock/backbone"


@pytest.fixture(scope="module")
def saved(local_hub: FaultyHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = testing.calibrate(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3)).eval()
    folder = tbx.save(model, tmp_path_factory.mktemp("saved"))
    tbx.push_to_hub(folder, REPO)
    return folder


@pytest.fixture(autouse=True)
def _no_faults(local_hub: FaultyHub) -> Iterator[None]:
    yield
    local_hub.faults()


def requests(hub: FaultyHub) -> list[str]:
    return [f"{method} {path}" for method, path, *_ in hub.faults()]


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
    second = tbx.push_to_hub(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3), repo).oid
    assert tbx.pull(repo, lock="backbones.lock").name == first
    assert tbx.pull(repo).name == second
    assert run(main, ["lock", "check"]).exit_code == 0
    local_hub.faults()
    tbx.pull(repo, lock="backbones.lock", check=False)
    assert requests(local_hub) == []
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
    with pytest.raises(ValueError, match="is no lock file that this version reads"):
        tbx.pull(repo, lock="backbones.lock")
