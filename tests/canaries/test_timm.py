"""What stock timm, torchvision and transformers get wrong, and this package works around.

A red test is good news: the release in question was repaired. The docstring of the test says what can go then.
"""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from timm.models._hub import save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from timm_backbones_ext import testing

SMALLEST = ["resnet18", "convnext_atto", "efficientnet_b0"]


def calibrated(name: str, **kwargs: object) -> nn.Module:
    return testing.calibrate(testing.create(name, **kwargs)).eval()


def rates(model: nn.Module) -> set[float]:
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.7)
    return {group["lr_scale"] for group in optimizer.param_groups}


@pytest.mark.slow
def test_a_nan_offset_kills_the_process_in_torchvision() -> None:
    """When red: delete `_nan_into_mask` in layers/deform.py."""
    code = (
        "import torch; from torchvision.ops import deform_conv2d as f; x = torch.randn(1, 4, 64, 64);"
        "[f(x, torch.full((1, 18, 64, 64), float('nan')), torch.randn(4, 4, 3, 3), padding=1) for _ in range(20)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode < 0, f"exit status {done.returncode}: {done.stderr}"


@pytest.mark.parametrize(
    "surgeon", [nn.SyncBatchNorm.convert_sync_batchnorm, freeze_batch_norm_2d, convert_sync_batchnorm]
)
def test_code_that_replaces_batch_norms_drops_the_activations_of_stock_efficientnets(surgeon) -> None:
    """When red for torch: layers/split_norm_act.py, its edit and the `repair` of EfficientNets can go."""
    stock = calibrated("efficientnet_b0")
    x = testing.image(stock, 64, 64)
    expected = stock(x)
    got = surgeon(copy.deepcopy(stock))(x)
    spoilt = (got - expected).abs().max() / expected.abs().max()
    assert (spoilt > 0.5) == (surgeon.__module__.startswith("torch"))  # timm knows its own norms


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vgg11_bn"])
def test_timm_takes_no_frozen_batch_norm_as_norm_layer(name: str) -> None:
    """When red: the frozen part of norm_layer.py can go."""
    for norm_layer in ("frozenbatchnorm2d", torchvision.ops.FrozenBatchNorm2d):
        with pytest.raises((TypeError, AssertionError, KeyError)):
            timm.create_model(name, norm_layer=norm_layer)


def test_timm_takes_no_synchronised_batch_norm_as_norm_layer_of_an_efficientnet() -> None:
    """When red: the synchronised part of norm_layer.py can go."""
    for norm_layer in ("syncbatchnorm", nn.SyncBatchNorm):
        with pytest.raises((AssertionError, KeyError)):
            timm.create_model("efficientnet_b0", norm_layer=norm_layer)


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_atto"])
def test_timm_takes_one_number_of_groups_for_all_widths(name: str) -> None:
    """When red: `_groups` in norm_layer.py can go."""
    with pytest.raises(ValueError, match="must be divisible by num_groups"):
        timm.create_model(name, norm_layer="groupnorm")


@pytest.mark.parametrize("name", SMALLEST)
def test_layer_decay_of_a_stock_feature_model_is_one_rate_for_all(name: str) -> None:
    """When red: `group_matcher` in features/wrapper.py can go."""
    assert len(rates(timm.create_model(name, features_only=True))) == 1


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_b0"])
def test_a_stock_feature_model_takes_no_checkpoint_of_the_full_model(name: str, tmp_path: Path) -> None:
    """When red: `accept_full_names` in features/wrapper.py is needed for edited models only."""
    save_file(testing.create(name).state_dict(), tmp_path / "full.safetensors")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        timm.create_model(name, features_only=True, checkpoint_path=str(tmp_path / "full.safetensors"))


@pytest.mark.filterwarnings("ignore")
def test_transformers_finds_no_hidden_states_in_a_stock_convnext() -> None:
    """When red: `_exchanged` in features/classes.py can go."""
    from transformers import TimmBackbone, TimmBackboneConfig

    backbone = TimmBackbone(TimmBackboneConfig(backbone="convnext_atto", out_indices=(1, 3))).eval()
    with pytest.raises(IndexError):
        backbone(torch.randn(1, 3, 64, 64), output_hidden_states=True)


@pytest.mark.parametrize("name", SMALLEST)
def test_transformers_cannot_read_a_config_that_timm_saved(name: str, tmp_path: Path) -> None:
    """When red: saving may leave `num_classes` in `model_args` (saving/folder.py)."""
    from transformers import TimmWrapperForImageClassification

    save_for_hf(testing.create(name, num_classes=10), tmp_path, safe_serialization=True)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'num_classes'"):
        TimmWrapperForImageClassification.from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_transformers_resets_the_statistics_of_pretrained_stock_batch_norms(name: str) -> None:
    """When red: `_keep_statistics` in registry.py can go."""
    from transformers import TimmBackbone, TimmBackboneConfig

    source = {"state_dict": dict(calibrated(name).state_dict())}
    config = TimmBackboneConfig(backbone=name, out_indices=(1, 3))
    made = TimmBackbone(config, pretrained=True, pretrained_cfg_overlay=source)
    (found,) = (value for key, value in made.state_dict().items() if key.endswith("backbone.bn1.running_mean"))
    assert not found.any()


def test_torchvisions_backbone_with_fpn_takes_no_stock_efficientnet_or_convnext() -> None:
    """When red: the sentence on `BackboneWithFPN` in docs/guides/detection.md is to be changed; no code goes."""
    for name, layer in (("efficientnet_b0", "blocks.1"), ("convnext_atto", "stages.1")):
        with pytest.raises(ValueError, match="return_layers are not present"):
            BackboneWithFPN(timm.create_model(name), {layer: "1"}, [16], 16)
    with pytest.raises(ValueError, match="return_layers are not present"):
        BackboneWithFPN(timm.create_model("efficientnet_b0", features_only=True), {"blocks.1": "1"}, [16], 16)


def test_a_stock_feature_model_has_no_num_features() -> None:
    """When red: `num_features` in features/making.py can go."""
    assert not hasattr(timm.create_model("efficientnet_b0", features_only=True), "num_features")


@pytest.mark.parametrize(("have", "want"), [(3, 5), (5, 7), (5, 3)])
def test_in_chans_of_stock_timm_changes_what_a_pretrained_model_computes(have: int, want: int) -> None:
    """When red: `channels_as_edit` in edits/in_chans.py can go."""
    model = calibrated("resnet18", in_chans=have)
    cfg = {**timm.get_pretrained_cfg("resnet18").to_dict(), "input_size": (have, 224, 224)}
    source = {**cfg, "state_dict": {key: value.clone() for key, value in model.state_dict().items()}}
    stock = timm.create_model("resnet18", in_chans=want, pretrained=True, pretrained_cfg=source).eval()
    x = torch.randn(1, 7, 64, 64)
    x[:, min(have, want) :] = 0
    assert (stock(x[:, :want]) - model(x[:, :have])).abs().max() > 0.1


def test_doubling_the_maps_of_a_stock_backbone_misses_the_finer_map() -> None:
    """When red: pyramids no longer need images of a multiple of the stride; `pad_to` may stay."""
    maps = timm.create_model("convnext_atto", features_only=True)(torch.randn(1, 3, 100, 75))
    assert maps[0].shape[-2:] == (25, 18)
    with pytest.raises(RuntimeError, match="must match"):
        nn.functional.interpolate(maps[1][:, :40], scale_factor=2) + maps[0]


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_timm_cannot_make_a_feature_model_of_an_efficientnet_by_its_sequence(kind: str) -> None:
    """When red: nothing goes; docs/guides/features.md counts it among the differences."""
    with pytest.raises(AssertionError, match="are not present in model"):
        timm.create_model("efficientnet_b0", features_only=True, feature_cls=kind)


def test_torchscript_takes_no_getter_of_a_stock_resnet() -> None:
    """When red: add ("resnet18", "getter") to `SCRIPTED` in tests/layers/test_feature_models.py."""
    with pytest.raises(RuntimeError):  # of slices of tuples; the message is another one the second time
        torch.jit.script(timm.create_model("resnet18", features_only=True, feature_cls="getter"))
