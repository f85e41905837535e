"""EfficientNets whose activations survive code that replaces batch norms (trap 1 of tests/detection/test_traps.py)."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.layers import BatchNormAct2d, ConvNormAct, convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.features import wrap


def twins(name: str) -> tuple[nn.Module, nn.Module]:
    """timm's model and ours with the same weights, trained-like, in eval mode."""
    stock = testing.calibrate(testing.create(name, num_classes=10)).eval()
    source = {"state_dict": stock.state_dict(), "num_classes": 10}
    return stock, testing.create(f"ext_{name}", num_classes=10, pretrained=True, pretrained_cfg_overlay=source).eval()


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
def test_activations_survive_whoever_replaces_batch_norms(surgeon: str, features_only: bool) -> None:
    stock, ours = twins("efficientnet_b0")
    wrapped = wrap(copy.deepcopy(ours)).eval() if features_only else copy.deepcopy(ours)
    x = testing.image(stock, 64, 64)
    with torch.no_grad():
        expected = stock.forward_intermediates(x, intermediates_only=True)[-1] if features_only else stock(x)
        operated = SURGERY[surgeon](wrapped)
        got = operated(x)[-1] if features_only else operated(x)
    assert not any(type(module) is nn.BatchNorm2d for module in operated.modules())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "tf_efficientnetv2_s", "efficientnet_cc_b0_4e", "efficientnet_x_b3"]
)
def test_splitting_changes_no_key_and_no_bit(name: str) -> None:
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
def test_a_map_of_the_stem_is_taken_after_its_activation(kind: str) -> None:
    stock = testing.calibrate(timm.create_model("efficientnet_x_b3", num_classes=0)).eval()
    stock.bn1.act.inplace = False  # in place it would reach a map that is taken too early
    x = testing.image(stock, 64, 64)
    expected = stock.forward_intermediates(x, intermediates_only=True)
    ours = wrap(tbx.edit(copy.deepcopy(stock), "split_norm_act"), feature_cls=kind, out_indices=(0, 2)).eval()
    got = ours(x)
    for mine, theirs in zip(got.values() if isinstance(got, dict) else got, (expected[0], expected[2]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_splitting_is_no_edit_of_the_users() -> None:
    model = timm.create_model("ext_efficientnet_b0")
    assert model.edits == ()
    assert tbx.edit(model, "split_norm_act").edits == ("split_norm_act",)
    with pytest.raises(ValueError, match="no batch norm that holds an activation"):
        tbx.edit(timm.create_model("efficientnet_b0_gn"), "split_norm_act")


def test_a_block_that_is_not_known_is_named() -> None:
    model = timm.create_model("efficientnet_b0")
    model.blocks[1][0].conv_pw = ConvNormAct(16, 96, 1)
    with pytest.raises(ValueError, match=r"blocks\.1\.0\.conv_pw \(ConvNormAct\)"):
        tbx.edit(model, "split_norm_act")


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_efficientnetv2_s"])
def test_training_steps_are_the_same(name: str) -> None:
    stock = testing.calibrate(timm.create_model(name, num_classes=10)).double().train()
    ours = tbx.edit(copy.deepcopy(stock), "split_norm_act").train()
    ours.set_grad_checkpointing()
    x = testing.image(stock, 64, 64, batch=2)
    for model in (stock, ours):
        model(x).square().mean().backward()
    for (key, theirs), mine in zip(stock.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=key)
    assert torch.equal(ours.bn1.running_mean, stock.bn1.running_mean)
