"""What stock timm 1.0.31 does to detectors and `ext_*` does not; tests/canaries shows the first, this the second.

Trap 1, activations that are lost with batch norms, is in tests/layers/test_split_norm_act.py.
"""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.features import FeatureList
from timm_backbones_ext.layers import CpuSyncBatchNorm, FrozenBatchNorm2d
from timm_backbones_ext.registry import BUILT_IN, VARIANTS

SMALLEST = ["resnet18", "convnext_atto", "efficientnet_b0"]


def twins(name: str, **kwargs: object) -> tuple[nn.Module, nn.Module]:
    """timm's model and ours with the same weights, trained-like, in eval mode."""
    stock = testing.calibrate(testing.create(name, num_classes=10)).eval()
    source = {"state_dict": stock.state_dict(), "num_classes": 10}
    ours = testing.create(f"ext_{name}", num_classes=10, pretrained=True, pretrained_cfg_overlay=source, **kwargs)
    return stock, ours.eval()


def same(got: nn.Module, expected: nn.Module) -> None:
    """Every tensor to the bit; outputs but for the rounding of convs whose weights lie elsewhere in memory."""
    mine, theirs = got.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], tensor) for key, tensor in theirs.items())
    x = testing.image(expected, 64, 64)
    assert testing.largest([got(x)], [expected(x)]) < 1e-4


@pytest.mark.parametrize("norm_layer", ["frozenbatchnorm2d", "FrozenBatchNorm2d", torchvision.ops.FrozenBatchNorm2d])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vgg11_bn"])
def test_trap_2_a_frozen_batch_norm_as_norm_layer_freezes_every_norm(
    name: str, norm_layer: object, tmp_path: Path
) -> None:
    stock, ours = twins(name, norm_layer=norm_layer)
    assert ours.edits == ("frozen_bn",)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in ours.modules())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in ours.modules())
    x = testing.image(stock, 64, 64)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    tbx.save(ours, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.edits == ("frozen_bn",)
    same(again, ours)


def test_trap_2_a_frozen_batch_norm_is_frozen_once() -> None:
    for edits in ("frozen_bn", ["dcn(stages=[4])", "frozen_bn"]):
        model = timm.create_model("ext_resnet18", norm_layer="frozenbatchnorm2d", edits=edits, features_only=True)
        assert model.full_model().edits.count("frozen_bn") == 1


def test_trap_2_a_frozen_batch_norm_with_arguments_is_an_error_that_says_what_to_do() -> None:
    from functools import partial

    with pytest.raises(ValueError, match=r"without arguments; got \{'eps': 0.001\}.*edits='frozen_bn'"):
        timm.create_model("ext_resnet18", norm_layer=partial(torchvision.ops.FrozenBatchNorm2d, eps=1e-3))


@pytest.mark.parametrize(
    ("norm_layer", "kind"),
    [
        ("frozenbatchnorm2d", "frozen"),
        (torchvision.ops.FrozenBatchNorm2d, "frozen"),
        (nn.SyncBatchNorm, "synchronised"),
    ],
)
def test_trap_2_a_convnext_has_no_batch_norm_and_the_error_says_what_to_do(norm_layer: object, kind: str) -> None:
    message = rf"convnext_atto has layer norms and no batch norm, so there is none to be {kind}. Leave norm_layer out"
    with pytest.raises(ValueError, match=message):
        timm.create_model("ext_convnext_atto", norm_layer=norm_layer)


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("norm_layer", ["syncbatchnorm", "SyncBatchNorm", nn.SyncBatchNorm])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vgg11_bn"])
def test_trap_2_a_synchronised_batch_norm_as_norm_layer_gives_the_same_under_the_same_keys(
    name: str, norm_layer: object, features_only: bool, tmp_path: Path
) -> None:
    stock, ours = twins(name, norm_layer=norm_layer)
    assert list(ours.state_dict()) == list(stock.state_dict())
    norms = [module for module in ours.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert {type(norm) for norm in norms} <= {nn.SyncBatchNorm, CpuSyncBatchNorm}
    x = testing.image(stock, 64, 64)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-4, atol=1e-4)
    ours.train()(testing.image(stock, 64, 64, batch=2)).sum().backward()
    if features_only:
        made = testing.create(f"ext_{name}", norm_layer=norm_layer, features_only=True)
        assert any(isinstance(module, (nn.SyncBatchNorm, CpuSyncBatchNorm)) for module in made.modules())
        return
    assert ours.edits == ()
    tbx.save(ours.eval(), tmp_path)  # as a model with plain norms: synchronising is about how it is trained
    same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), ours)


def test_trap_2_synchronised_norms_go_with_edits() -> None:
    model = timm.create_model("ext_efficientnet_b0", norm_layer=nn.SyncBatchNorm, edits="frozen_bn")
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    from functools import partial

    with pytest.raises(ValueError, match=r"expected a synchronised batch norm without arguments; got \{'eps': 0.001\}"):
        timm.create_model("ext_resnet18", norm_layer=partial(nn.SyncBatchNorm, eps=1e-3))


@pytest.mark.parametrize(("name", "groups"), [("resnet18", 32), ("efficientnet_b0", 8), ("convnext_atto", 8)])
def test_trap_2_groupnorm_takes_a_number_of_groups_that_divides_every_width(
    name: str, groups: int, tmp_path: Path
) -> None:
    ours = timm.create_model(f"ext_{name}", norm_layer="groupnorm", num_classes=10).eval()
    norms = [module for module in ours.modules() if isinstance(module, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {groups}
    tbx.save(ours, tmp_path)
    same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval(), ours)


def rates(model: nn.Module, **kwargs: object) -> set[float]:
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.7, **kwargs)
    return {round(group["lr_scale"], 9) for group in optimizer.param_groups}


@pytest.mark.parametrize(("name", "groups"), [("resnet18", 10), ("convnext_atto", 14), ("efficientnet_b0", 18)])
def test_trap_3_layer_decay_finds_the_groups_of_the_classifier(name: str, groups: int) -> None:
    """All but that of the head, which the maps do not have."""
    ours = timm.create_model(f"ext_{name}", features_only=True)
    assert len(rates(timm.create_model(name))) == groups
    assert len(rates(ours)) == groups - 1
    decayed = tbx.param_groups(ours, lr=1.0, layer_decay=0.7)
    assert len({round(group["lr"], 9) for group in decayed}) == groups - 1


@pytest.mark.parametrize("name", SMALLEST)
def test_trap_4_a_features_only_model_loads_and_saves_keys_of_either_kind(name: str, tmp_path: Path) -> None:
    classifier, _ = twins(name)
    file = tmp_path / "classifier.safetensors"
    save_file(classifier.state_dict(), file)
    ours = timm.create_model(f"ext_{name}", features_only=True, checkpoint_path=str(file)).eval()
    again = timm.create_model(f"ext_{name}", features_only=True).eval()
    x = testing.image(classifier, 64, 64)
    expected = classifier.forward_intermediates(x, intermediates_only=True)
    for keys in (ours.state_dict(), ours.full_model().state_dict(), classifier.state_dict()):
        again.load_state_dict(keys)
        for got, wanted in zip(again(x), expected, strict=True):
            torch.testing.assert_close(got, wanted)
    assert ours.full_model().state_dict().keys() <= classifier.state_dict().keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("indices", [(1, 3), (2,), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    ("name", "edits"), [*((name, None) for name in SMALLEST), ("convnext_atto", "out_norm"), ("resnet18", "dcn")]
)
def test_trap_4_transformers_takes_hidden_states_of_a_backbone(name: str, edits: str | None, indices: tuple) -> None:
    from transformers import TimmBackbone, TimmBackboneConfig

    config = TimmBackboneConfig(backbone=f"ext_{name}", out_indices=indices, use_pretrained_backbone=False)
    backbone = TimmBackbone(config, edits=edits).eval()
    (wrapper,) = (module for module in backbone.modules() if isinstance(module, FeatureList))
    full = wrapper.full_model()
    x = torch.randn(1, 3, 64, 64)
    levels = full.forward_intermediates(x, intermediates_only=True)
    before, hidden, after = backbone(x), backbone(x, output_hidden_states=True), backbone(x)
    for got, again, i in zip(before.feature_maps, after.feature_maps, indices, strict=True):
        assert torch.equal(got, again)
        assert got.shape == levels[i].shape
    assert [level.shape for level in hidden.hidden_states] == [level.shape for level in levels[: indices[-1] + 1]]
    if edits != "out_norm":
        for got, wanted in zip(hidden.hidden_states, levels, strict=False):
            torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", SMALLEST)
def test_trap_5_transformers_reads_a_config_of_ours(name: str, tmp_path: Path) -> None:
    from transformers import TimmWrapperForImageClassification

    _, ours = twins(name)
    tbx.save(ours, tmp_path / "ours")
    wrapped = TimmWrapperForImageClassification.from_pretrained(tmp_path / "ours").eval()
    same(wrapped.timm_model, ours)
    same(timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval(), ours)
    x = testing.image(ours, 64, 64)
    assert torch.equal(wrapped(x).logits, wrapped.timm_model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_trap_6_transformers_leaves_the_statistics_of_pretrained_batch_norms(name: str) -> None:
    from transformers import TimmBackbone, TimmBackboneConfig

    weights = testing.calibrate(timm.create_model(name)).state_dict()
    config = TimmBackboneConfig(backbone=f"ext_{name}", out_indices=(1, 3))
    made = TimmBackbone(config, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(weights)})
    (found,) = (value for key, value in made.state_dict().items() if key.endswith("backbone.bn1.running_mean"))
    assert torch.equal(found, weights["bn1.running_mean"])


@pytest.mark.parametrize("edits", [None, "in_chans(5)"])
@pytest.mark.parametrize("name", SMALLEST)
def test_trap_8_torchvisions_backbone_with_fpn_runs_a_features_only_model(name: str, edits: str | None) -> None:
    """Its children run in order, and `return_layers` is what torchvision wants to know."""
    body = testing.calibrate(timm.create_model(f"ext_{name}", features_only=True, out_indices=(1, 2, 3), edits=edits))
    layers, channels = dict(body.return_layers), body.feature_info.channels()
    net = BackboneWithFPN(body.eval(), layers, channels, 16).eval()
    x = torch.randn(1, body.in_chans, 64, 96)
    for got, expected in zip(net.body(x).values(), body(x), strict=True):
        assert torch.equal(got, expected)
    assert [level.shape[1] for level in net(x).values()] == [16] * 4


@pytest.mark.parametrize("name", sorted(item for item in VARIANTS if item in BUILT_IN))
def test_trap_8_strides_and_widths_of_every_variant_are_those_that_clients_ask_for(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True)
        maps = model(torch.empty(1, 3, 64, 64))
    assert model.num_features == maps[-1].shape[1] == model.feature_info.channels()[-1]
    strides = model.feature_info.reduction()
    if "vgg" in name:  # which has a map of the image's own size
        assert strides == [1, 2, 4, 8, 16, 32]
    elif name.endswith("_cifar"):  # for images of 32x32
        assert strides == [1, 1, 2, 4]
    else:
        assert strides in ([2, 4, 8, 16, 32], [4, 8, 16, 32])
    assert [64 // level.shape[-1] for level in maps] == strides


def test_trap_8_num_features_is_the_width_of_the_last_map_asked_for() -> None:
    assert timm.create_model("ext_efficientnet_b0", features_only=True).num_features == 320
    assert timm.create_model("ext_efficientnet_b0", features_only=True, out_indices=(3, 1)).num_features == 24
    assert timm.create_model("ext_convnext_atto", features_only=True, edits="out_norm").num_features == 320


@pytest.mark.parametrize("wanted", [{"edits": "in_chans(7)"}, {"in_chans": 7}])
def test_trap_9_a_model_of_five_channels_takes_seven_and_refuses_three(wanted: dict, tmp_path: Path) -> None:
    five = testing.calibrate(timm.create_model("ext_resnet18", in_chans=5, num_classes=10)).eval()
    tbx.save(five, tmp_path)
    x = torch.randn(1, 7, 64, 64)
    seven = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **wanted).eval()
    assert (seven(x) - five(x[:, :5])).abs().max() < 1e-5
    with pytest.raises(tbx.HubError, match="conv1 has 5 input channels; expected 1 or a number from 5, got 3"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=3)


def test_trap_10_no_name_holds_a_word_by_which_clients_know_other_models() -> None:
    words = ("dla", "tresnet", "vit", "densenet")
    assert [name for name in VARIANTS for word in words if word in name] == []
