"""What stock timm 1.0.31 does to detectors, and that `ext_*` does not: a test per trap, which shows both."""

import copy
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d, ConvNormAct, convert_sync_batchnorm, freeze_batch_norm_2d
from timm.models._hub import save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.features import wrap
from timm_backbones_ext.layers import FrozenBatchNorm2d
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


def detectron2_frozen(module: nn.Module) -> nn.Module:
    """What detectron2's `FrozenBatchNorm2d.convert_frozen_batchnorm` does, with torchvision's class."""
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        frozen = torchvision.ops.FrozenBatchNorm2d(module.num_features, eps=module.eps)
        frozen.weight.data = module.weight.data.clone().detach()
        frozen.bias.data = module.bias.data.clone().detach()
        frozen.running_mean.data = module.running_mean.data
        frozen.running_var.data = module.running_var.data
        return frozen
    for name, child in module.named_children():
        module.add_module(name, detectron2_frozen(child))
    return module


def transformers_frozen(module: nn.Module) -> nn.Module:
    """What transformers' DETR does to its backbone; with an eps of 1e-5, whatever the model has."""
    from transformers.models.detr.modeling_detr import replace_batch_norm

    with torch.no_grad():
        replace_batch_norm(module)
    return module


SURGERY = {
    "transformers": transformers_frozen,
    "torch": nn.SyncBatchNorm.convert_sync_batchnorm,
    "detectron2": detectron2_frozen,
    "timm frozen": freeze_batch_norm_2d,
    "timm sync": convert_sync_batchnorm,
}


@pytest.mark.parametrize("features_only", [False, True])
@pytest.mark.parametrize("surgeon", SURGERY)
def test_trap_1_activations_survive_whoever_replaces_batch_norms(surgeon: str, features_only: bool) -> None:
    stock, ours = twins("efficientnet_b0")
    wrapped = wrap(copy.deepcopy(ours)).eval() if features_only else copy.deepcopy(ours)
    x = testing.image(stock, 64, 64)
    with torch.no_grad():
        expected = stock.forward_intermediates(x, intermediates_only=True)[-1] if features_only else stock(x)
        operated = SURGERY[surgeon](wrapped)
        got = operated(x)[-1] if features_only else operated(x)
        theirs = SURGERY[surgeon](copy.deepcopy(stock))(x)
        spoilt = (theirs - stock(x)).abs().max() / stock(x).abs().max()
    assert not any(type(module) is nn.BatchNorm2d for module in operated.modules())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (spoilt > 0.5) == (not surgeon.startswith("timm"))  # timm knows its own norms


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "tf_efficientnetv2_s", "efficientnet_cc_b0_4e", "efficientnet_x_b3"]
)
def test_trap_1_splitting_changes_no_key_and_no_bit(name: str) -> None:
    stock = testing.calibrate(timm.create_model(name, num_classes=10)).eval()
    ours = tbx.edit(copy.deepcopy(stock), "split_norm_act")
    x = testing.image(stock, 64, 64)
    with torch.no_grad():
        for got, expected in zip(testing.outputs(ours, x), testing.outputs(stock, x), strict=True):
            assert torch.equal(got, expected)
        assert torch.equal(ours(x), stock(x))
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in stock.named_parameters()]
    assert not any(isinstance(module, BatchNormAct2d) for module in ours.modules())
    assert tbx.compare(stock, ours).same


@pytest.mark.parametrize("kind", ["list", "dict", "hook", "getter", "fx"])
def test_trap_1_a_map_of_the_stem_is_taken_after_its_activation(kind: str) -> None:
    stock = testing.calibrate(timm.create_model("efficientnet_x_b3", num_classes=0)).eval()
    stock.bn1.act.inplace = False  # in place it would reach a map that is taken too early
    x = testing.image(stock, 64, 64)
    expected = stock.forward_intermediates(x, intermediates_only=True)
    ours = wrap(tbx.edit(copy.deepcopy(stock), "split_norm_act"), feature_cls=kind, out_indices=(0, 2)).eval()
    got = ours(x)
    for mine, theirs in zip(got.values() if isinstance(got, dict) else got, (expected[0], expected[2]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_trap_1_splitting_is_no_edit_of_the_users() -> None:
    model = timm.create_model("ext_efficientnet_b0")
    assert model.edits == ()
    assert tbx.edit(model, "split_norm_act").edits == ("split_norm_act",)
    with pytest.raises(ValueError, match="no batch norm that holds an activation"):
        tbx.edit(timm.create_model("efficientnet_b0_gn"), "split_norm_act")


def test_trap_1_a_block_that_is_not_known_is_named() -> None:
    model = timm.create_model("efficientnet_b0")
    model.blocks[1][0].conv_pw = ConvNormAct(16, 96, 1)
    with pytest.raises(ValueError, match=r"blocks\.1\.0\.conv_pw \(ConvNormAct\)"):
        tbx.edit(model, "split_norm_act")


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnetv2_s"])
def test_trap_1_training_steps_are_the_same(name: str) -> None:
    stock = testing.calibrate(timm.create_model(name, num_classes=10)).double().train()
    ours = tbx.edit(copy.deepcopy(stock), "split_norm_act").train()
    ours.set_grad_checkpointing()
    x = testing.image(stock, 64, 64, batch=2)
    for model in (stock, ours):
        model(x).square().mean().backward()
    for (key, theirs), mine in zip(stock.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=key)
    assert torch.equal(ours.bn1.running_mean, stock.bn1.running_mean)


@pytest.mark.parametrize("norm_layer", ["frozenbatchnorm2d", "FrozenBatchNorm2d", torchvision.ops.FrozenBatchNorm2d])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vgg11_bn"])
def test_trap_2_a_frozen_batch_norm_as_norm_layer_freezes_every_norm(
    name: str, norm_layer: object, tmp_path: Path
) -> None:
    with pytest.raises((TypeError, AssertionError, KeyError)):
        timm.create_model(name, norm_layer=norm_layer)
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
    with pytest.raises(ValueError, match=r"'frozen_bn' is for .*not convnext"):
        timm.create_model("ext_convnext_atto", norm_layer="frozenbatchnorm2d")


@pytest.mark.parametrize(("name", "groups"), [("resnet18", 32), ("efficientnet_b0", 8), ("convnext_atto", 8)])
def test_trap_2_groupnorm_takes_a_number_of_groups_that_divides_every_width(
    name: str, groups: int, tmp_path: Path
) -> None:
    if groups != 32:
        with pytest.raises(ValueError, match="must be divisible by num_groups"):
            timm.create_model(name, norm_layer="groupnorm")
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
    """All but that of the head, which the maps do not have; in stock timm it is one for all parameters."""
    stock, ours = (timm.create_model(f"{prefix}{name}", features_only=True) for prefix in ("", "ext_"))
    assert len(rates(timm.create_model(name))) == groups
    assert len(rates(ours)) == groups - 1
    assert len(rates(stock)) == 1
    decayed = tbx.param_groups(ours, lr=1.0, layer_decay=0.7)
    assert len({round(group["lr"], 9) for group in decayed}) == groups - 1


@pytest.mark.parametrize("name", SMALLEST)
def test_trap_4_a_features_only_model_loads_and_saves_keys_of_either_kind(name: str, tmp_path: Path) -> None:
    classifier, _ = twins(name)
    file = tmp_path / "classifier.safetensors"
    save_file(classifier.state_dict(), file)
    if name != "resnet18":  # whose keys are the same
        with pytest.raises(RuntimeError, match="Unexpected key"):
            timm.create_model(name, features_only=True, checkpoint_path=str(file))
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
    full = backbone._backbone.full_model()
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


@pytest.mark.filterwarnings("ignore")
def test_trap_4_stock_timm_fails_there() -> None:
    from transformers import TimmBackbone, TimmBackboneConfig

    backbone = TimmBackbone(TimmBackboneConfig(backbone="convnext_atto", out_indices=(1, 3))).eval()
    with pytest.raises(IndexError):
        backbone(torch.randn(1, 3, 64, 64), output_hidden_states=True)


@pytest.mark.parametrize("name", SMALLEST)
def test_trap_5_transformers_reads_a_config_of_ours(name: str, tmp_path: Path) -> None:
    from transformers import TimmWrapperForImageClassification

    stock, ours = twins(name)
    save_for_hf(stock, tmp_path / "stock", safe_serialization=True)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'num_classes'"):
        TimmWrapperForImageClassification.from_pretrained(tmp_path / "stock")
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
    found = {}
    for backbone in (name, f"ext_{name}"):
        source = {"state_dict": dict(weights)}
        config = TimmBackboneConfig(backbone=backbone, out_indices=(1, 3))
        made = TimmBackbone(config, pretrained=True, pretrained_cfg_overlay=source)
        found[backbone] = made._backbone.state_dict()["bn1.running_mean"]
    assert torch.equal(found[f"ext_{name}"], weights["bn1.running_mean"])
    assert not found[name].any()


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


def test_trap_8_torchvisions_backbone_with_fpn_cannot_take_stock_efficientnets_and_convnexts() -> None:
    for name, layer in (("efficientnet_b0", "blocks.1"), ("convnext_atto", "stages.1")):
        with pytest.raises(ValueError, match="return_layers are not present"):
            BackboneWithFPN(timm.create_model(name), {layer: "1"}, [16], 16)
    stock = timm.create_model("efficientnet_b0", features_only=True)
    with pytest.raises(ValueError, match="return_layers are not present"):
        BackboneWithFPN(stock, {"blocks.1": "1"}, [16], 16)


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
    assert not hasattr(timm.create_model("efficientnet_b0", features_only=True), "num_features")


@pytest.mark.parametrize("wanted", [{"edits": "in_chans(7)"}, {"in_chans": 3}])
def test_trap_9_a_model_of_five_channels_takes_seven_as_an_edit_and_changes_with_three(
    wanted: dict, tmp_path: Path
) -> None:
    """timm's own `in_chans` repeats, adds and rescales the weights of the first conv, in either direction."""
    five = testing.calibrate(timm.create_model("ext_resnet18", in_chans=5, num_classes=10)).eval()
    tbx.save(five, tmp_path)
    x = torch.randn(1, 7, 64, 64)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **wanted).eval()
    expected = five(torch.cat([x[:, : other.in_chans], torch.zeros(1, 2, 64, 64)], 1)[:, :5])
    difference = (other(x[:, : other.in_chans]) - expected).abs().max()
    assert difference < 1e-5 if "edits" in wanted else difference > 0.1
    stock = timm.create_model("resnet18", in_chans=7, num_classes=10, pretrained=True, pretrained_cfg=source_of(five))
    assert (stock.eval()(x) - five(x[:, :5])).abs().max() > 0.1


def source_of(model: nn.Module) -> dict:
    cfg = {**timm.get_pretrained_cfg("resnet18").to_dict(), "num_classes": 10, "input_size": (5, 224, 224)}
    return {**cfg, "state_dict": {key: value.clone() for key, value in model.state_dict().items()}}


def test_trap_10_no_name_holds_a_word_by_which_clients_know_other_models() -> None:
    words = ("dla", "tresnet", "vit", "densenet")
    assert [name for name in VARIANTS for word in words if word in name] == []
