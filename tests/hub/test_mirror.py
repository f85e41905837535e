"""A mirror of a repo in a local Hub."""

from pathlib import Path

import pytest
import timm
from click.testing import CliRunner
from huggingface_hub import HfApi

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.mirror import mirror
from timm_backbones_ext.saving.folder import load

REPO = "mirror/backbone"


def test_a_mirror_holds_the_same_commit_for_networks_without_the_hub(saved: Path, tmp_path: Path) -> None:
    done = mirror(REPO, tmp_path / "mirror")
    commit = done.commit
    assert (done.files, done.kept) == (6, None)
    assert commit == HfApi().repo_info(REPO).sha
    assert mirror(REPO, tmp_path / "mirror") == done
    with LocalHub(tmp_path / "mirror") as other:
        api = HfApi(endpoint=other.endpoint)
        assert api.repo_info(REPO).sha == api.repo_info(REPO, revision=commit).sha == commit
        copy = api.hf_hub_download(REPO, "model.safetensors", revision=commit, cache_dir=tmp_path / "cache")
        assert Path(copy).read_bytes() == (saved / "model.safetensors").read_bytes()
    said = CliRunner().invoke(main, ["hub", "fsck", str(tmp_path / "mirror")])
    assert (said.exit_code, said.output) == (0, "no damage\n")


def test_a_mirrored_difference_brings_its_base_and_loads_from_the_local_hub_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tbx.push_to_hub(testing.calibrate(timm.create_model("test_resnet")), "me/far-base", as_timm=True).oid
    model = tbx.edit(timm.create_model("hf-hub:me/far-base", pretrained=True), "lora(rank=2)").eval()
    tbx.push_to_hub(model, "me/far-delta", delta=True, base="me/far-base")
    said = CliRunner().invoke(main, ["hub", "mirror", "me/far-delta", str(tmp_path / "mirror")])
    assert said.exit_code == 0, said.output
    assert f"and its base me/far-base@{base}" in said.output
    with LocalHub(tmp_path / "mirror") as other:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", other.endpoint)
        folder = tbx.pull("me/far-delta", cache_dir=tmp_path / "cache")
        assert tbx.compare(load(folder), model).same
