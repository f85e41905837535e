"""Checkpoints that do not fit raise an error with the reason, and the model does not change."""

import copy

import pytest
import timm
import torch
from donors import filled, same, theirs
from safetensors.torch import save_file
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext.edits.lineage import mismatch


def untouched(model: nn.Module, state: object, message: str, **kwargs: object) -> None:
    """Loading raises an error, and the model does not change."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(tbx.WeightsError, match=message):
        tbx.load_checkpoint(model, state, **kwargs)
    assert same(model.state_dict(), before)


def test_another_architecture_is_refused_with_the_nearest_format_and_the_first_keys() -> None:
    state = filled(theirs("convnext_tiny")).state_dict()
    untouched(
        timm.create_model("convnext_small"), state, "the nearest is torchvision, .*missing .features.5.9.layer_scale"
    )
    untouched(timm.create_model("resnet18"), state, "in one of the formats timm, torchvision, mmcv; the nearest is")
    untouched(
        timm.create_model("ext_resnet18_dcn"), theirs("resnet34").state_dict(), r"unknown \(layer1.2.conv1.weight"
    )


def test_keys_of_two_formats_mixed_are_refused() -> None:
    model = timm.create_model("convnext_atto")
    meta = tbx.convert(model.state_dict(), source="timm", target="meta", arch="convnext_atto")
    mixed = {**dict(list(model.state_dict().items())[:30]), **dict(list(meta.items())[30:])}
    untouched(model, mixed, "differs from it: .* missing .*unknown")


def test_a_missing_classifier_is_an_error_unless_the_own_one_is_kept() -> None:
    model = timm.create_model("resnet18", num_classes=7)
    state = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("fc.")}
    untouched(model, state, "no classifier, nothing was loaded. head=False keeps the model's own")
    assert "the model keeps its own classifier" in str(tbx.load_checkpoint(model, state, head=False))


def test_features_need_no_classifier() -> None:
    state = timm.create_model("resnet18").state_dict()
    model = timm.create_model("ext_resnet18_dcn", features_only=True)
    loaded = tbx.load_checkpoint(model, {k: v + 1 for k, v in state.items()})
    assert "the model has no classifier; that of the checkpoint was left out" in str(loaded)
    assert model.layer4[0].conv1.weight.equal(state["layer4.0.conv1.weight"] + 1)


def test_another_number_of_classes_is_an_error_unless_the_head_is_dropped() -> None:
    model = timm.create_model("resnet18", num_classes=7)
    state = timm.create_model("resnet18").state_dict()
    untouched(
        model, state, "1000 classes and the model 7, nothing was loaded. Create it with num_classes=1000, or keep"
    )
    own = model.fc.weight.clone()
    assert "that of the checkpoint was left out" in str(tbx.load_checkpoint(model, state, head=False))
    assert model.fc.weight.equal(own)


def test_weights_trained_with_another_padding_are_refused() -> None:
    plain, tensorflows = timm.create_model("efficientnet_b0"), timm.create_model("ext_tf_efficientnet_b0")
    state = tbx.convert(tensorflows.state_dict(), source="timm", target="lukemelas", arch="tf_efficientnet_b0")
    untouched(plain, state, "pads as TensorFlow does, and efficientnet_b0 does not; .*Take one of the tf_ models")
    untouched(tensorflows, theirs("efficientnet_b0").state_dict(), "pads evenly, .*Take one without tf_")


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_named(tmp_path) -> None:
    model = timm.create_model("resnet18")
    torch.save(model, tmp_path / "whole.pth")
    untouched(model, tmp_path / "whole.pth", "whole.pth is a pickle that needs more than tensors, .*timm.models.resnet")
    torch.save([1, 2], tmp_path / "list.pth")
    untouched(model, tmp_path / "list.pth", "expected a state dict in list.pth; got a list")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_truncated_file_is_refused(kind: str, tmp_path) -> None:
    model, path = timm.create_model("resnet18"), tmp_path / f"weights.{kind}"
    (save_file if kind == "safetensors" else torch.save)(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    untouched(model, path, f"weights.{kind} is damaged")


def test_what_is_no_state_dict_is_refused(tmp_path) -> None:
    model = timm.create_model("resnet18")
    untouched(model, {"epoch": 3}, "expected a state dict, or one under state_dict_ema.*'epoch' is a int")
    untouched(model, {}, "it is empty")
    with pytest.raises(FileNotFoundError, match=r"no file .*package:NAME"):
        tbx.load_checkpoint(model, tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="unknown format 'caffe'; known: timm, torchvision, meta"):
        tbx.load_checkpoint(model, model.state_dict(), source="caffe")
    untouched(
        model, model.state_dict(), "Meta's ConvNeXt and ConvNeXt V2 has no resnet; it has: convnext", source="meta"
    )


def test_a_target_that_lacks_an_edit_is_refused() -> None:
    state = timm.create_model("ext_resnet18_dcn").state_dict()
    with pytest.raises(tbx.WeightsError, match="torchvision has no dcn; convert a model without this edit"):
        tbx.convert(state, source="timm", target="torchvision", arch="ext_resnet18_dcn")


@pytest.mark.parametrize("spoil", [lambda key: key.startswith("head.norm."), lambda key: key == "head.fc.bias"])
def test_half_a_head_is_refused(spoil) -> None:
    model = timm.create_model("convnext_atto")
    state = {key: value + 1 for key, value in model.state_dict().items() if not spoil(key)}
    untouched(model, state, r"the checkpoint does not fit, nothing was loaded: .* missing \(head")


def test_six_keys_that_differ_are_named_and_the_others_counted() -> None:
    tensor = torch.zeros(1)
    assert mismatch({}, dict.fromkeys("abcdef", tensor)) == "6 missing (a, b, c, d, e, f)"
    assert mismatch({}, dict.fromkeys("abcdefg", tensor)) == "7 missing (a, b, c, d, e, f and 1 more)"
    found = mismatch({"a": tensor, "c": torch.zeros(2)}, {"b": tensor, "c": torch.zeros(3)})
    assert found == "1 missing (b); 1 unknown (a); 1 misshaped (c (2,) instead of (3,))"
