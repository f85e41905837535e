"""The config.json of a repo: what it may not say is refused before anything is built or fetched."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from cases import RIGHT
from faulty import FaultyHub
from huggingface_hub import HfApi
from mutations import mutations

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

REPO = "config/backbone"
MUTATIONS = int(os.environ.get("MUTATIONS", "120"))  # benchmarks/reliability.py runs 1,000 of each


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


def test_the_config_is_checked_before_weights_are_fetched(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    tbx.push_to_hub(saved, "pull/later")
    content = json.dumps({**config, "architecture": "ext_later"}).encode()
    HfApi().upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id="pull/later")
    local_hub.faults()
    with pytest.raises(tbx.HubError, match="unknown architecture 'ext_later'"):
        tbx.pull("pull/later", cache_dir=tmp_path)
    assert not [path for path in requests(local_hub) if "safetensors" in path or "storage" in path]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 10**12}, "no backbone has so many of anything"),
        ({"num_classes": -(10**12)}, "no backbone has so many of anything"),
        ({"model_args": {"drop_rate": float("nan")}}, "has nan, and no backbone has so many of anything"),
        ({"model_args": {"drop_rate": -0.5}}, "model_args drop_rate -0.5; expected 0 to"),
        ({"model_args": {"depths": [1, 1, -3, 1]}}, "model_args depths -3; expected 0 to"),
        ({"pretrained_cfg": {"input_size": [3, 50_000, 50_000]}}, "no backbone has so many of anything"),
        (
            {"pretrained_cfg": {"input_size": [3, 4_000, 4_000]}},
            r"has input_size \[3, 4000, 4000\]; expected 1 to 2048",
        ),
        ({"pretrained_cfg": {"custom_load": True}}, "custom_load asks for another file format"),
        ({"model_args": {"pretrained_strict": False}}, "takes no argument 'pretrained_strict' from a file"),
        ({"model_args": {"depths": [2500, 2500, 2500, 2500]}}, "more than 8,000 modules, and no backbone has so many"),
        ({"model_args": {"depths": [9000] * 4}}, "no backbone has so many of anything"),
        ({"num_classes": "three"}, "num_classes 'three'; expected 0 or more"),
        ({"num_classes": -1}, "num_classes -1; expected 0 or more"),
        ({"label_names": ["a"]}, "1 label names; expected 3, one per class"),
        ({"model_args": {"shell": "rm -rf"}}, r"config.json does not fit any model .*shell"),
        ({"model_args": {"edits": ["__import__('os')"]}}, "no edit '__import__'"),
    ],
    ids=str,
)
def test_create_model_checks_the_config_before_weights_are_fetched(
    changes: dict, said: str, saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    repo = f"pull/config-{abs(hash(str(changes))):x}"
    config = json.dumps({**json.loads((saved / "config.json").read_text()), **changes})
    HfApi().create_repo(repo)
    for name, content in {"config.json": config.encode(), "model.safetensors": saved / "model.safetensors"}.items():
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo)
    local_hub.faults()
    with pytest.raises((tbx.HubError, ValueError), match=said):
        timm.create_model(f"hf-hub:{repo}", pretrained=True, cache_dir=tmp_path)
    with pytest.raises(tbx.HubError, match=said):
        tbx.pull(repo, cache_dir=tmp_path)
    assert not [path for path in requests(local_hub) if "safetensors" in path or "storage" in path]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_mutations_of_a_config_and_of_a_header_end_well(name: str, saved: Path) -> None:
    kinds = mutations(saved, name, MUTATIONS)
    assert kinds.total() == MUTATIONS
    assert kinds[RIGHT] < 0.9 * MUTATIONS
    assert kinds[{"config.json": "refused: no JSON", "model.safetensors": "refused: damaged"}[name]] > 0.1 * MUTATIONS
