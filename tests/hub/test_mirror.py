"""A mirror of a repo in a local Hub."""

from pathlib import Path

from click.testing import CliRunner
from huggingface_hub import HfApi

from timm_backbones_ext.cli.main import main
from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.mirror import mirror

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
