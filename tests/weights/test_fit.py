"""Checkpoints load into edited models if they fit; otherwise the error names the keys and nothing is loaded."""

import pickle
import re

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.models.ext_resnet import ext_resnet18
from timm_backbones_ext.weights.files import read_header

NAME = "ext_resnet18"


def load(state_dict: dict[str, Tensor], name: str = NAME, *, num_classes: int = 1000, **kwargs: object):
    source = {"state_dict": {key: value.clone() for key, value in state_dict.items()}, "num_classes": num_classes}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **kwargs)


@pytest.fixture(scope="module")
def base() -> torch.nn.Module:
    return testing.calibrate(timm.create_model("resnet18")).eval()


@pytest.mark.parametrize("edits", ["dcn", "dcn, frozen_bn", "dcn, in_chans(5)", "in_chans(5), frozen_bn, dcn"])
def test_a_checkpoint_of_the_base_with_the_first_edits_fits(edits: str, base: torch.nn.Module) -> None:
    """A trained ext_resnet18 with dcn becomes one with dcn and more, and goes on computing what it computed."""
    texts = [str(edit) for edit in tbx.parse_edits(edits)]
    for count in range(len(texts) + 1):
        trained = load(base.state_dict(), edits=texts[:count] or None).eval()
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                if "conv_offset" in name:
                    parameter.normal_(std=0.1)
        grown = load(trained.state_dict(), edits=texts).eval()
        x = torch.randn(1, 5, 64, 64)
        expected = trained(x[:, : trained.in_chans])
        torch.testing.assert_close(grown(x[:, : grown.in_chans]), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}, {"num_classes": 5}, {"num_classes": 0}])
def test_thirteen_of_all_tensors_do_not_load(kwargs: dict, base: torch.nn.Module) -> None:
    few = dict(list(base.state_dict().items())[:13])
    with pytest.raises(tbx.WeightsError, match=r"nothing was loaded: .*\d+ missing \(layer1.0.bn2.weight"):
        load(few, **kwargs)


def test_thirteen_of_all_tensors_do_not_load_whatever_calls(base: torch.nn.Module, tmp_path) -> None:
    file = tmp_path / "few.safetensors"
    save_file(dict(list(base.state_dict().items())[:13]), file)
    overlay = {"file": str(file)}
    for features_only in (False, True):
        with pytest.raises(tbx.WeightsError, match=r"\d+ missing"):
            ext_resnet18(pretrained=True, pretrained_cfg_overlay=overlay, features_only=features_only)
        with pytest.raises(tbx.WeightsError, match=r"\d+ missing"):
            timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, features_only=features_only)
        with pytest.raises(RuntimeError, match=r"[Mm]issing"):
            timm.create_model(NAME, checkpoint_path=str(file), features_only=features_only)


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}, {"num_classes": 5}])
def test_unknown_and_misshaped_keys_are_named(kwargs: dict, base: torch.nn.Module) -> None:
    weights = base.state_dict()
    with pytest.raises(tbx.WeightsError, match=r"1 unknown \(stranger\)"):
        load({**weights, "stranger": torch.zeros(1)}, **kwargs)
    with pytest.raises(tbx.WeightsError, match=r"conv1.weight \(64, 3, 5, 5\) instead of \(64, 3, 7, 7\)"):
        load({**weights, "conv1.weight": torch.zeros(64, 3, 5, 5)}, **kwargs)


def test_one_new_key_missing_is_not_taken_for_a_base_checkpoint() -> None:
    weights = timm.create_model(NAME, edits="dcn").state_dict()
    del weights["layer3.0.conv2.conv_offset.bias"]
    with pytest.raises(tbx.WeightsError, match=r"1 missing \(layer3.0.conv2.conv_offset.bias\)"):
        load(weights, edits="dcn")


def test_weights_of_another_depth_do_not_load() -> None:
    with pytest.raises(tbx.WeightsError, match="unknown"):
        load(timm.create_model("resnet34").state_dict())


def test_a_classifier_of_other_classes_is_left_out_and_one_of_the_same_is_kept(base: torch.nn.Module) -> None:
    assert load(base.state_dict(), num_classes=1000).fc.weight.equal(base.fc.weight)
    five = timm.create_model(
        NAME, pretrained=True, num_classes=5, pretrained_cfg_overlay={"state_dict": base.state_dict()}
    )
    assert five.fc.weight.shape == (5, 512)
    assert five.conv1.weight.equal(base.conv1.weight)


def test_a_wrong_classifier_is_an_error_where_it_is_wanted(base: torch.nn.Module) -> None:
    weights = {**base.state_dict(), "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    with pytest.raises(tbx.WeightsError, match=r"fc.weight \(7, 512\) instead of \(1000, 512\)"):
        load(weights)


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 10}])
def test_in_chans_of_create_model_adds_channels_that_start_at_zero(base: torch.nn.Module, kwargs: dict) -> None:
    source = {"state_dict": dict(base.state_dict())}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=source, in_chans=5, **kwargs)
    assert model.conv1.weight[:, :3].equal(base.conv1.weight)
    assert not model.conv1.weight[:, 3:].any()


def test_a_file_loads_as_a_state_dict_does(base: torch.nn.Module, tmp_path) -> None:
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    source = {"file": str(tmp_path / "base.safetensors")}
    model = timm.create_model(NAME, pretrained=True, edits="dcn", pretrained_cfg_overlay=source)
    assert model.layer4[1].conv2.weight.equal(base.layer4[1].conv2.weight)
    assert not model.layer4[1].conv2.conv_offset.weight.any()


def test_a_folder_with_only_a_pickle_is_refused(tmp_path) -> None:
    tbx.save(timm.create_model(NAME), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(tbx.WeightsError, match=r"pickles are not read\. Convert"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"PK" + data[2:], lambda _: b""])
def test_a_truncated_or_foreign_file_is_an_error(spoil, tmp_path) -> None:
    tbx.save(timm.create_model(NAME), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(tbx.WeightsError, match=r"model.safetensors of .* is damaged or is not a safetensors file"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_header_larger_than_any_backbones_is_not_read(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"padding": " " * 10_000_000})
    with pytest.raises(tbx.WeightsError, match=r"its header has 10,\d+,\d+ bytes; expected at most 10,000,000"):
        read_header(path)


def test_checkpoints_in_the_format_of_convnexts_authors_load() -> None:
    plain = testing.calibrate(timm.create_model("convnext_atto")).eval()
    names = {
        r"stem\.": "downsample_layers.0.",
        r"stages\.(\d)\.blocks\.(\d)": r"stages.\1.\2",
        r"stages\.(\d)\.downsample\.": r"downsample_layers.\1.",
        "conv_dw": "dwconv",
        r"mlp\.fc": "pwconv",
        r"head\.norm": "norm",
        r"head\.fc": "head",
    }
    theirs = {}
    for key, value in plain.state_dict().items():
        for ours, name in names.items():
            key = re.sub(f"^{ours}" if ours.startswith("head") else ours, name, key)
        theirs[key] = value
    model = timm.create_model(
        "ext_convnext_atto", edits="kernel", pretrained=True, pretrained_cfg_overlay={"state_dict": {"model": theirs}}
    ).eval()
    x = testing.image(plain, 64, 64)
    assert testing.largest(testing.outputs(model, x), testing.outputs(plain, x)) <= 1e-4


def test_torchvisions_vgg_loads() -> None:
    theirs = torchvision.models.vgg11_bn(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    source = {"state_dict": dict(theirs.state_dict())}
    model = timm.create_model("ext_vgg11_bn", edits="rep", pretrained=True, pretrained_cfg_overlay=source).eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::timm_backbones_ext.LicenseWarning")
def test_convnext_v2s_autoencoders_load_without_the_norm_of_the_head() -> None:
    plain = timm.create_model("convnextv2_tiny", num_classes=0)
    weights = {key: value for key, value in plain.state_dict().items() if not key.startswith("head.")}
    source = {"state_dict": dict(weights)}
    model = timm.create_model("ext_convnextv2_tiny.fcmae", pretrained=True, pretrained_cfg_overlay=source)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
    with pytest.raises(tbx.WeightsError, match=r"missing \(head\.norm\.weight"):
        timm.create_model("ext_convnextv2_tiny", pretrained=True, pretrained_cfg_overlay={**source, "num_classes": 0})
