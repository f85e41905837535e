"""Low-rank branches beside layers of every kind, and the layers that get them."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.edits import parse_edits
from timm_backbones_ext.layers import ExtendedConv2d, LowRankLinear, fold_low_rank, low_rank_of, with_low_rank

LAYERS = {
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False),
    "grouped": nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "pointwise": nn.Conv2d(4, 6, 1),
    "same": Conv2dSame(4, 6, 3, stride=2),
    "linear": nn.Linear(9, 6, bias=False),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_branch_starts_at_zero_and_folds_into_the_weight(kind: str) -> None:
    layer = copy.deepcopy(LAYERS[kind]).double()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    expected = layer(x)
    branched = with_low_rank(copy.deepcopy(layer), 2)
    torch.testing.assert_close(branched(x), expected)
    nn.init.normal_(low_rank_of(branched).up.weight)
    trained = branched(x)
    assert not torch.allclose(trained, expected)
    folded = fold_low_rank(branched)
    torch.testing.assert_close(folded(x), trained)
    assert folded.state_dict().keys() == layer.state_dict().keys()
    assert type(folded) is (ExtendedConv2d if kind == "same" else type(layer))


def test_a_branch_follows_what_other_edits_do_to_its_conv() -> None:
    x = torch.randn(2, 5, 8, 8)
    conv = with_low_rank(Conv2dSame(4, 6, 3, stride=2), 2)
    nn.init.normal_(low_rank_of(conv).up.weight)
    expected = conv(x[:, :4])
    conv.grow(1)
    conv.pad_statically()
    torch.testing.assert_close(conv(x), expected)
    odd = torch.randn(2, 5, 9, 9)
    unfused = conv(odd)
    folded = conv.fuse()
    torch.testing.assert_close(folded(x), expected)
    torch.testing.assert_close(folded(odd), unfused)
    with pytest.raises(ValueError, match="without branches; got one with lora"):
        ExtendedConv2d.dense(with_low_rank(nn.Conv2d(4, 6, 2, stride=2), 2), 2)


def names(base: str, edit: str) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in parse_edits(edit)[0].layers(timm.create_model(base))]


def test_targets_are_kinds_of_layers_or_names() -> None:
    assert names("test_resnet", "lora(targets='conv3x3', stages=[1])") == ["layer1.0.conv1", "layer1.0.conv2"]
    assert names("test_resnet", "lora(targets=['layer1.0.conv1', 'fc'])") == ["layer1.0.conv1", "fc"]
    ends = names("test_convnext", "lora(targets=['fc1'])")
    assert ends
    assert all(name.endswith(".fc1") for name in ends)
    assert names("efficientnet_b0", "lora(stages=[2], targets='pointwise')") == [
        *("blocks.1.0.conv_pw", "blocks.1.0.conv_pwl", "blocks.1.1.conv_pw", "blocks.1.1.conv_pwl")
    ]
    assert names("vgg11_bn", "lora(stages=[6])") == ["pre_logits.fc1", "pre_logits.fc2"]


@pytest.mark.parametrize(
    ("base", "edit", "said"),
    [
        ("resnext50_32x4d", "lora", "layer1.0.conv2.*its 32 groups need a rank that is a multiple"),
        ("efficientnet_b0", "lora(targets='conv3x3')", "no layer for targets='conv3x3'.*depthwise convs are left out"),
        ("efficientnet_b0", "lora(targets=['conv_dw'])", "groups need a rank that is a multiple"),
        ("test_resnet", "lora(targets=['conv9'])", "no conv or linear layer 'conv9'"),
        ("test_resnet", "lora(targets=['conv9', 'conv8'])", "no conv or linear layer 'conv8'"),
        ("test_resnet", "lora(targets=[])", "targets must be one of all, conv3x3, pointwise or names"),
        ("test_resnet", "lora(targets=[1])", "targets must be one of all, conv3x3, pointwise or names"),
        ("test_resnet", "lora(targets='convs')", "targets must be one of all, conv3x3, pointwise or names"),
        ("test_resnet", "lora(targets=['fc'], stages=[1])", "leave one of them out"),
        ("test_resnet", "lora(stages=[5])", "stages must be some of"),
        ("test_resnet", "lora(rank=0)", "rank must be a whole number from 1"),
        ("test_resnet", "lora, lora", "has branches already"),
        ("test_convnext", "lora, grn(fold=True)", "merge lora first"),
    ],
)
def test_what_cannot_have_a_branch_is_named(base: str, edit: str, said: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(base)
    with pytest.raises(ValueError, match=said):
        tbx.edit(model, edit)


def test_a_grouped_net_learns_at_a_rank_of_its_groups() -> None:
    with torch.device("meta"):
        model = tbx.edit(timm.create_model("resnext50_32x4d"), "lora(rank=32, stages=[1])")
    assert model.layer1[0].conv2.branches["lora"].down.weight.shape == (32, 4, 3, 3)


def test_a_fused_model_has_no_branches() -> None:
    model = tbx.edit(testing.trained("test_convnext", num_classes=4), "lora").eval()
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            nn.init.normal_(module.lora.up.weight, std=0.1)
    x = testing.image(model, 64, 64)
    fused = tbx.fuse(model, winograd=False)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in fused.named_parameters() if "lora" in name]
