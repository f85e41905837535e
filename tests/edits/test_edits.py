"""Edits as text and on live models; an edit that cannot be applied changes nothing."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.edits.dcn import Dcn

CASES = [
    (testing.base_for(family, item), item)
    for cls in tbx.EDITS.values()
    for item in tbx.parse_edits(cls.example)
    for family in item.families
]


@pytest.mark.parametrize("text", ["dcn(stages=[3, 4])", "dcn(stages=(3, 4))", "dcn([3, 4])", " dcn( (3,4) ) "])
def test_an_edit_is_written_as_a_call(text: str) -> None:
    assert tbx.parse_edits(text) == (Dcn(stages=(3, 4)),)


def test_several_edits_are_read_from_one_text_or_from_a_list() -> None:
    assert [edit.name for edit in tbx.parse_edits("dcn, frozen_bn")] == ["dcn", "frozen_bn"]
    assert tbx.parse_edits(["dcn", tbx.parse_edits("frozen_bn")]) == tbx.parse_edits("dcn, frozen_bn")
    assert tbx.parse_edits(None) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dnc", "did you mean 'dcn'"),
        ("whatever", "Known edits: cbam, dcn"),
        ("dcn(stage=3)", "Arguments of 'dcn': stages"),
        ("dcn(stages=[7])", "some of"),
        ("dcn(stages=())", "some of"),
        ("dcn(stages=open('x'))", "literal arguments"),
        ("__import__('os').getcwd()", "write it as a call"),
        ("dcn(", "write it as a call"),
        ("in_chans", "Arguments of 'in_chans': n"),
        ("in_chans(0)", "positive number"),
    ],
)
def test_text_that_is_no_edit_is_a_clear_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timm.create_model("ext_resnet18", edits=text)


def test_an_edit_of_another_family_names_those_that_fit() -> None:
    with pytest.raises(ValueError, match=r"'dcn' is for resnet, not convnext; there is: dilated_reparam"):
        tbx.edit(timm.create_model("convnext_atto"), "dcn")


def test_a_model_of_no_known_family_is_refused() -> None:
    with pytest.raises(ValueError, match="one of the families convnext"):
        tbx.edit(timm.create_model("test_vit"), "in_chans(5)")


def test_an_edit_that_cannot_be_applied_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("resnet18")
    before = str(model)
    with pytest.raises(ValueError, match=r"expected a plain nn\.Conv2d as layer2"):
        tbx.edit(model, "frozen_bn", "dcn", "dcn")
    assert str(model) == before
    assert not hasattr(model, "edits")


def test_channels_cannot_be_taken_away() -> None:
    with pytest.raises(ValueError, match="conv1 has 3 input channels; expected 1 or a number from 3, got 2"):
        timm.create_model("ext_resnet18", edits="in_chans(2)")


def test_edits_keep_the_parameter_objects_that_an_optimizer_holds() -> None:
    model = timm.create_model("resnet18")
    before = dict(model.named_parameters())
    tbx.edit(model, "dcn")
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def test_any_live_model_of_a_family_can_be_edited() -> None:
    model = tbx.edit(timm.create_model("resnext50_32x4d"), "dcn").eval()
    assert model.edits == ("dcn",)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(("base", "item"), CASES, ids=str)
def test_new_tensors_take_dtype_and_device_of_the_model(base: str, item: tbx.Edit) -> None:
    model = tbx.edit(testing.create(base).to(torch.bfloat16), item)
    assert {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()} == {torch.bfloat16}
    with torch.device("meta"):
        model = testing.create(base)
    tbx.edit(model, item)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.parametrize(("base", "item"), CASES, ids=str)
def test_a_model_in_training_stays_in_training(base: str, item: tbx.Edit) -> None:
    for training in (True, False):
        model = tbx.edit(testing.create(base).train(training), item)
        assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("cls", tbx.EDITS.values())
def test_every_edit_says_by_which_route_its_gain_was_published(cls: type[tbx.Edit]) -> None:
    assert cls.evidence.startswith(("warm insertion: ", "from scratch: ", "none: "))
    assert cls.exact in ("eval", "eval+train")


def test_attention_goes_where_an_efficientnet_has_none() -> None:
    with torch.device("meta"):
        fused = tbx.edit(timm.create_model("test_efficientnet"), "eca")
        own = timm.create_model("efficientnet_b0")
    assert [type(block.se).__name__ for stage in fused.blocks[1:] for block in stage] == [
        *("Eca", "Eca", "SqueezeExcite", "SqueezeExcite")
    ]
    with pytest.raises(ValueError, match="every block of the stages already has attention, or has no place for it"):
        tbx.edit(own, "eca")
    with pytest.raises(ValueError, match=r"expected no attention at blocks\.1\.0\.se; found Eca\. Two attention"):
        tbx.edit(fused, "se(stages=[2])")


def test_branches_refuse_pads_that_depend_on_the_image_and_kernels_that_are_too_small() -> None:
    with torch.device("meta"):
        same, small = timm.create_model("tf_efficientnet_lite0"), timm.create_model("test_efficientnet")
    with pytest.raises(ValueError, match=r"blocks\.1\.0\.conv_dw: .*; apply the edit static_pad first"):
        tbx.edit(same, "rep")
    assert tbx.edit(same, "static_pad", "rep").edits == ("static_pad", "rep")
    with pytest.raises(ValueError, match="no conv there that is large enough for branches"):
        tbx.edit(small, "dilated_reparam")


def test_only_what_was_applied_and_can_be_merged_is_merged() -> None:
    model = timm.create_model("ext_resnet18", edits="dcn(stages=[4]), frozen_bn")
    with pytest.raises(ValueError, match=r"no edit 'rep'; it has: dcn\(stages=\(4,\)\), frozen_bn"):
        tbx.merge(model, "rep")
    with pytest.raises(ValueError, match="'dcn' cannot be merged"):
        tbx.merge(model, "dcn")
    assert tbx.merge(model).edits == ("dcn(stages=(4,))", "frozen_bn")


def test_a_merged_model_keeps_its_other_edits() -> None:
    model = timm.create_model("ext_resnet18", edits="in_chans(5), rep, frozen_bn, eca").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = testing.image(model, 64, 64)
    expected = testing.outputs(model.double(), x.double())
    merged = tbx.merge(model, "rep")
    assert merged.edits == ("in_chans(n=5)", "frozen_bn", "eca")
    assert not any("branches" in key for key in merged.state_dict())
    assert testing.largest(testing.outputs(merged, x.double()), expected) <= 1e-9


def test_an_edited_model_can_be_copied_and_pickled() -> None:
    model = timm.create_model("ext_resnet18", edits="dcn").eval()
    x = torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        twin.init_weights()
        assert not torch.equal(twin.conv1.weight, model.conv1.weight)


def test_frozen_norms_do_not_move_in_training() -> None:
    model = timm.create_model("ext_resnet18", edits="frozen_bn").train()
    before = {key: value.clone() for key, value in model.state_dict().items() if "bn" in key or "downsample.1" in key}
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert before
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert not any("bn" in name for name, _ in model.named_parameters())


def test_frozen_norms_hold_the_same_keys() -> None:
    frozen = timm.create_model("ext_resnet18", edits="frozen_bn").state_dict()
    assert frozen.keys() == timm.create_model("resnet18").state_dict().keys()


def test_an_edit_from_outside_the_package_is_known_by_its_name() -> None:
    from dataclasses import dataclass

    @tbx.register_edit(families=("resnet",), exact="eval+train", evidence="none")
    @dataclass(frozen=True)
    class NoOp(tbx.Edit):
        """Nothing."""

        def apply(self, model: nn.Module) -> None:
            """Do nothing."""

    try:
        assert timm.create_model("ext_resnet18", edits="no_op").edits == ("no_op",)
        assert "no_op" in tbx.list_edits("resnet")
        assert "no_op" not in tbx.list_edits("convnext")
    finally:
        del tbx.EDITS["no_op"]
