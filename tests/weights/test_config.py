"""An invalid config.json of a repo raises an error before anything is built or fetched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from faulty import FaultyHub
from hostile import HARMLESS, HOSTILE
from huggingface_hub import HfApi
from mutations import mutations
from safetensors.torch import load_file, save_file
from world import RIGHT

import timm_backbones_ext as tbx
from timm_backbones_ext.saving.checks import check_config
from timm_backbones_ext.weights.arguments import allowed_arguments
from timm_backbones_ext.weights.config import LARGEST_DEPTH, _branches, _require_small

REPO = "config/backbone"
MUTATIONS = int(os.environ.get("MUTATIONS", "120"))  # benchmarks/reliability.py runs 1,000 of each


def test_the_config_is_checked_before_weights_are_fetched(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    tbx.push_to_hub(saved, "pull/later")
    content = json.dumps({**config, "architecture": "ext_later"}).encode()
    HfApi().upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id="pull/later")
    local_hub.faults()
    with pytest.raises(tbx.HubError, match="unknown architecture 'ext_later'"):
        tbx.pull("pull/later", cache_dir=tmp_path)
    assert not [path for path in local_hub.requests() if "safetensors" in path or "storage" in path]


def test_lists_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    def nested(depth: int) -> dict:
        tree: object = []
        for _ in range(depth - 2):  # beside the list inside and the object around
            tree = [tree]
        return {"extra": tree}

    assert max(depth for _, depth in _branches(nested(LARGEST_DEPTH))) == LARGEST_DEPTH
    _require_small(nested(LARGEST_DEPTH))
    with pytest.raises(ValueError, match="has lists more than 40 deep"):
        _require_small(nested(LARGEST_DEPTH + 1))


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
            r"has input_size \[3, 4000, 4000\]; expected 1 to",
        ),
        ({"pretrained_cfg": {"custom_load": True}}, "custom_load asks for another file format"),
        ({"model_args": {"pretrained_strict": False}}, "takes no argument 'pretrained_strict' from a file"),
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
    assert not [path for path in local_hub.requests() if "safetensors" in path or "storage" in path]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_mutations_of_a_config_and_of_a_header_end_well(name: str, saved: Path) -> None:
    kinds = mutations(saved, name, MUTATIONS)
    assert kinds.total() == MUTATIONS
    assert kinds[RIGHT] < 0.9 * MUTATIONS
    assert kinds[{"config.json": "refused: no JSON", "model.safetensors": "refused: damaged"}[name]] > 0.1 * MUTATIONS


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / "SHA256SUMS").unlink()  # what is read is on trial here, not the hashes
    return folder


@pytest.mark.parametrize(
    "key", ["head.fc.weight", "stages.0.blocks.0.mlp.fc1.weight", "stages.0.blocks.0.conv_dw.weight"]
)
def test_transposed_tensors_do_not_load(key: str, copy: Path) -> None:
    """The same key, the same count of numbers and the same sides in another order."""
    weights = load_file(copy / "model.safetensors")
    weights[key] = weights[key].transpose(0, 1).contiguous()
    save_file(weights, copy / "model.safetensors")
    for call in (tbx.verify, load_folder):
        with pytest.raises((tbx.HubError, tbx.WeightsError), match=rf"1 misshaped \({key} .* instead of"):
            call(copy)


def load_folder(folder: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.bool, torch.float8_e4m3fn, torch.complex64]
)
def test_files_with_tensors_of_a_type_that_no_backbone_has_do_not_load(dtype: torch.dtype, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["head.fc.weight"] = weights["head.fc.weight"].to(dtype)
    save_file(weights, copy / "model.safetensors")
    for call in (tbx.verify, load_folder):
        with pytest.raises((tbx.HubError, tbx.WeightsError), match=r"holds \w+ in head.fc.weight; expected F64, F32"):
            call(copy)


def test_random_weights_behind_an_argument_of_the_builder_do_not_pass(copy: Path) -> None:
    """With `pretrained_strict=False` in the config of a timm model, any file loaded and the weights stayed random."""
    config = json.loads((copy / "config.json").read_text())
    config |= {"architecture": "convnext_atto", "model_args": {"pretrained_strict": False}}
    (copy / "config.json").write_text(json.dumps(config))
    save_file({"stranger": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(tbx.HubError, match="takes no argument 'pretrained_strict' from a file"):
        tbx.verify(copy)
    HfApi().create_repo("config/strict")
    HfApi().upload_folder(folder_path=copy, repo_id="config/strict")
    with pytest.raises(tbx.HubError, match="takes no argument 'pretrained_strict' from a file"):
        tbx.pull("config/strict")


@pytest.mark.parametrize(
    ("name", "model_args"),
    [
        ("ext_resnet18", {"output_stride": 16, "drop_path_rate": 0.1, "edits": ["eca"], "act_layer": "silu"}),
        ("ext_efficientnet_b0", {"bn_eps": 1e-3, "drop_rate": 0.2, "edits": ["in_chans(5)"]}),
        ("ext_test_convnext", {"ls_init_value": 1e-6, "use_grn": True, "drop_path_rate": 0.1}),
        ("vit_tiny_patch16_224", {"img_size": 384, "dynamic_img_size": True, "reg_tokens": 4, "depth": 6}),
        ("swin_tiny_patch4_window7_224", {"img_size": 384, "window_size": 12}),
        ("coatnet_0_rw_224", {"img_size": 256}),
        ("eva02_tiny_patch14_224", {"img_size": 448}),
    ],
)
def test_arguments_that_people_use_pass(name: str, model_args: dict, tmp_path: Path) -> None:
    config = {"architecture": name, "num_classes": 10, "model_args": model_args, "pretrained_cfg": {"num_classes": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_config(tmp_path / "config.json", "mine")


def test_every_ext_name_of_this_package_passes_its_own_check(tmp_path: Path) -> None:
    for name in tbx.list_variants():
        assert {"edits", "in_chans", "num_classes", "drop_rate"} <= allowed_arguments(name), name
        assert not {"pretrained_strict", "checkpoint_path", "device", "cache_dir"} & allowed_arguments(name), name


@pytest.mark.slow
def test_no_hostile_config_takes_more_than_two_seconds_or_a_gigabyte() -> None:
    script = Path(__file__).with_name("hostile.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    tried = {item["name"]: item for item in map(json.loads, done.stdout.splitlines())}
    assert len(tried) >= 40
    assert tried.keys() == HOSTILE.keys()
    for name, item in tried.items():
        assert item["cpu"] < 2, name
        assert item["mb"] < 1024, name
        assert item["said"] == "accepted" or item["said"].startswith("HubError: me/hostile"), (name, item["said"])
    assert {name for name, item in tried.items() if item["said"] == "accepted"} <= HARMLESS
