"""What a model is: found once, never changed, and built as often as needed and no more."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import ResNet
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.saving.folder import load
from timm_backbones_ext.saving.identity import identify


@pytest.fixture
def builds() -> Iterator[list[nn.Module]]:
    """Each ResNet that was built since the test began; torch tells it when the last stage is registered."""
    found: list[nn.Module] = []

    def count(module: nn.Module, name: str, value: Any) -> None:
        if isinstance(module, ResNet) and name == "layer4" and value not in [m.layer4 for m in found[:-1]]:
            found.append(module)

    handle = register_module_module_registration_hook(count)
    yield found
    handle.remove()


def edited(**kwargs: Any) -> nn.Module:
    return testing.calibrate(timm.create_model("ext_test_resnet", edits="dcn", num_classes=3, **kwargs)).eval()


def test_loading_a_folder_builds_one_model(tmp_path: Path, builds: list[nn.Module]) -> None:
    tbx.save(edited(), tmp_path)
    builds.clear()
    load(tmp_path)
    assert len(builds) == 1


def test_verifying_a_folder_builds_at_most_two_models(tmp_path: Path, builds: list[nn.Module]) -> None:
    tbx.save(edited(), tmp_path)
    builds.clear()
    assert tbx.verify(tmp_path).same
    assert len(builds) <= 2


def test_saving_a_model_builds_none(tmp_path: Path, builds: list[nn.Module]) -> None:
    model = edited()
    builds.clear()
    tbx.save(model, tmp_path)
    assert builds == []


@pytest.mark.usefixtures("local_hub")
@pytest.mark.parametrize("check", [True, False])
def test_pulling_builds_at_most_two_models(check: bool, tmp_path: Path, builds: list[nn.Module]) -> None:
    tbx.push_to_hub(edited(), "identity/pulled")
    builds.clear()
    tbx.pull("identity/pulled", cache_dir=tmp_path, check=check)
    assert len(builds) <= 2
    builds.clear()
    assert tbx.verify("identity/pulled").same
    assert len(builds) <= 2


@pytest.mark.usefixtures("local_hub")
def test_pushing_a_model_or_a_folder_builds_one(tmp_path: Path, builds: list[nn.Module]) -> None:
    model = edited()
    builds.clear()
    tbx.push_to_hub(model, "identity/pushed")
    assert len(builds) == 1
    tbx.save(model, tmp_path)
    builds.clear()
    tbx.push_to_hub(tmp_path, "identity/pushed-folder")
    assert len(builds) == 1


def test_one_value_says_what_a_model_is() -> None:
    model = timm.create_model("ext_resnet50_dcn.a1_in1k", edits="eca", output_stride=16, features_only=True)
    found = identify(nn.DataParallel(model))
    assert found.model is model.full_model()
    assert found.wrappers[0] == "DataParallel"
    assert len(found.wrappers) == 2
    assert (found.architecture, found.base, found.tag) == ("ext_resnet50_dcn", "resnet50", "a1_in1k")
    assert [edit.partition("(")[0] for edit in found.edits] == ["dcn", "eca"]
    assert [edit.partition("(")[0] for edit in found.extra] == ["eca"]
    assert dict(found.args) == {"output_stride": 16}
    assert not found.sharded
    with pytest.raises(AttributeError):
        found.base = "resnet18"  # ty: ignore[invalid-assignment]


def snapshot(model: nn.Module) -> bytes:
    """All that a caller can see of a model, except its tensors."""
    plain = {
        key: value
        for key, value in vars(model).items()
        if not isinstance(value, (dict, nn.Module)) or key == "_model_args"
    }
    modes = [(name, type(m).__name__, m.training, len(m._forward_hooks)) for name, m in model.named_modules()]
    grads = [(name, p.requires_grad, p.dtype, p.data_ptr()) for name, p in model.named_parameters()]
    shown = {key: repr(value) for key, value in plain.items()}
    return pickle.dumps((shown, modes, grads, repr(model.pretrained_cfg)))


@pytest.mark.parametrize("kind", ["full", "features", "compiled", "merged", "half"])
@pytest.mark.parametrize("as_timm", [False, True])
def test_saving_changes_nothing_that_is_passed_in(kind: str, as_timm: bool, tmp_path: Path) -> None:
    edits = None if as_timm else "eca"
    kwargs = {"features_only": True, "out_indices": (1, 3)} if kind == "features" else {"output_stride": 16}
    model = timm.create_model("ext_test_resnet", edits=edits, num_classes=3, **kwargs).train()
    if kind == "merged":
        model = tbx.merge(timm.create_model("ext_test_resnet", edits="rep", num_classes=3))
    model = model.half() if kind == "half" else model
    passed = torch.compile(model) if kind == "compiled" else model
    full = model.full_model() if kind == "features" else model
    labels, card, metrics = ["a", "b", "c"], {"datasets": ["x"], "tags": ["mine"]}, {"accuracy": 0.5}
    given = copy.deepcopy((labels, card, metrics))
    args = copy.deepcopy(model._model_args)
    before, tensors = (snapshot(model), snapshot(full)), {k: v.clone() for k, v in model.state_dict().items()}
    names = None if kind == "features" else labels
    tbx.save(passed, tmp_path, label_names=names, card=card, metrics=metrics, as_timm=as_timm)
    assert model._model_args == args
    assert (snapshot(model), snapshot(full)) == before
    assert all(value.equal(tensors[key]) for key, value in model.state_dict().items())
    assert (labels, card, metrics) == given


def test_timms_own_export_keeps_the_edits_after_a_save(tmp_path: Path) -> None:
    model = edited()
    tbx.save(model, tmp_path / "ours")
    timm.models.save_for_hf(model, tmp_path / "theirs", safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True)
    assert again.edits == model.edits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_loaded_model_has_the_files_dtypes_and_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    model = edited().to(dtype)
    tbx.save(model, tmp_path)
    stored, again = load_file(tmp_path / "model.safetensors"), load(tmp_path).state_dict()
    assert all(again[key].dtype == value.dtype and again[key].equal(value) for key, value in stored.items())
    assert again["fc.weight"].dtype == dtype


def test_no_path_of_this_machine_is_left_in_a_saved_config(tmp_path: Path) -> None:
    """A model that was loaded from a folder or a cache has its path in `pretrained_cfg`."""
    tbx.save(edited(), tmp_path / "first")
    again = timm.create_model(f"local-dir:{tmp_path / 'first'}", pretrained=True, cache_dir=tmp_path / "cache")
    assert str(tmp_path) in str(again.pretrained_cfg)
    tbx.save(again, tmp_path / "second")
    text = (tmp_path / "second" / "config.json").read_text()
    assert str(tmp_path) not in text
    assert "cache_dir" not in text
    assert text == (tmp_path / "first" / "config.json").read_text()
