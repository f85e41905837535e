"""Pulls: what is asked of the Hub, what is checked before anything is loaded, and what a lock holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from faulty import FaultyHub
from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors.torch import load_file, save_file

import timm_backbones_ext as tbx
from timm_backbones_ext.weights.source import pretrained_tensors

REPO = "pull/backbone"


def test_a_cold_pull_takes_at_most_six_requests_and_a_locked_warm_one_none(
    saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    local_hub.faults()
    folder = tbx.pull(REPO, cache_dir=tmp_path)
    assert len(asked := local_hub.requests()) <= 6, asked
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "fingerprint.safetensors",
        "model.safetensors",
    ]
    assert tbx.pull(REPO, folder.name, cache_dir=tmp_path) == folder
    assert local_hub.requests() == []


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}, {"num_classes": 7}])
def test_create_model_checks_what_it_loads(kwargs: dict, saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    local_hub.faults({"kind": "flip", "where": "/storage/", "at": 500_000})
    model = timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path, **kwargs)
    full = model.full_model() if kwargs.get("features_only") else model
    expected = load_file(saved / "model.safetensors")
    state = full.state_dict()
    assert all(state[key].equal(expected[key]) for key in state if not key.startswith("head.fc"))
    local_hub.faults({"kind": "flip", "where": "/storage/", "at": 500_000, "times": -1})
    with pytest.raises(tbx.HubError, match="arrived damaged twice"):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path / "other", **kwargs)


def test_a_fingerprint_that_is_none_is_an_error_of_the_repo(saved: Path, tmp_path: Path) -> None:
    repo = "pull/no-fingerprint"
    tbx.push_to_hub(saved, repo)
    for content in (b"no fingerprint", (saved / "model.safetensors").read_bytes()):
        HfApi().upload_file(path_or_fileobj=content, path_in_repo="fingerprint.safetensors", repo_id=repo)
        with pytest.raises(tbx.HubError, match=r"is no fingerprint|expected fingerprint format"):
            tbx.pull(repo, cache_dir=tmp_path)


def test_create_model_reads_no_pickle_when_safetensors_fail(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    HfApi().upload_file(path_or_fileobj=b"cos\nsystem\n", path_in_repo="pytorch_model.bin", repo_id=REPO)
    local_hub.faults({"kind": "status", "where": "model.safetensors", "method": "GET", "status": 503, "times": -1})
    with pytest.raises((tbx.HubError, OSError)):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path)
    assert not [path for path in local_hub.requests() if "pytorch_model" in path]
    HfApi().delete_file("pytorch_model.bin", REPO)


def test_weights_come_from_the_commit_that_the_config_came_from(saved: Path, tmp_path: Path) -> None:
    """Somebody pushes between the two requests of create_model."""
    repo = "pull/moving"
    tbx.push_to_hub(saved, repo)
    timm.create_model(f"hf-hub:{repo}", cache_dir=tmp_path)  # reads the config alone
    read = try_to_load_from_cache(repo, "config.json", cache_dir=tmp_path)
    tbx.push_to_hub(timm.create_model("ext_test_convnext", edits="eca", num_classes=3), repo)
    assert Path(str(read)).parent.name != HfApi().model_info(repo).sha
    tensors = pretrained_tensors({"hf_hub_id": repo, "source": "hf-hub"}, tmp_path).tensors
    expected = load_file(saved / "model.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(tensors[key].equal(value) for key, value in expected.items())


def test_a_config_that_was_damaged_in_the_cache_is_repaired_and_said(saved: Path, tmp_path: Path) -> None:
    folder = tbx.pull(REPO, cache_dir=tmp_path)
    blob = (folder / "config.json").resolve()
    blob.write_text(blob.read_text().replace('"num_classes": 3', '"num_classes": 7'))
    with pytest.raises(tbx.HubError, match="was damaged in the cache; it is whole again"):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path)
    assert timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path).num_classes == 3


def test_weights_of_a_base_are_checked_as_well(local_hub: FaultyHub, tmp_path: Path) -> None:
    base = timm.create_model("test_convnext.r160_in1k")
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(base.state_dict(), folder / "model.safetensors")
    api = HfApi()
    api.create_repo("timm/test_convnext.r160_in1k")
    api.upload_folder(folder_path=folder, repo_id="timm/test_convnext.r160_in1k")
    local_hub.faults({"kind": "flip", "where": "/storage/", "at": 1_000_000})
    model = timm.create_model("ext_test_convnext.r160_in1k", pretrained=True, edits="eca", cache_dir=tmp_path / "cache")
    assert model.stem[0].weight.equal(base.stem[0].weight)
    assert len([path for path in local_hub.requests() if "/storage/" in path]) == 2


@pytest.mark.slow
def test_offline_a_pinned_revision_comes_from_the_cache(saved: Path, tmp_path: Path) -> None:
    folder = tbx.pull(REPO, cache_dir=tmp_path)
    script = f"""
import timm, timm_backbones_ext as tbx
print(tbx.pull("{REPO}", "{folder.name}", cache_dir={str(tmp_path)!r}))
print(timm.create_model("hf-hub:{REPO}@{folder.name}", pretrained=True, cache_dir={str(tmp_path)!r}).num_classes)
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(folder), "3"]
