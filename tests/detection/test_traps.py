"""What stock timm 1.0.31 does to detectors, and that `ext_*` does not: a test per trap, which shows both."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.layers import FrozenBatchNorm2d

SMALLEST = ["resnet18", "convnext_atto", "efficientnet_b0"]


def twins(name: str, **kwargs: object) -> tuple[nn.Module, nn.Module]:
    """timm's model and ours with the same weights, trained-like, in eval mode."""
    stock = testing.calibrate(testing.create(name, num_classes=10)).eval()
    source = {"state_dict": stock.state_dict(), "num_classes": 10}
    ours = testing.create(f"ext_{name}", num_classes=10, pretrained=True, pretrained_cfg_overlay=source, **kwargs)
    return stock, ours.eval()


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
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.edits == ("frozen_bn",)
    assert torch.equal(again.eval()(x), ours(x))


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
    x = testing.image(ours, 64, 64)
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), ours(x))
