"""The law of the house, for every edit and every variant; a new one is tested without a new line."""

import copy
import itertools

import pytest
import timm
import torch

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.edits import EDITS, parse
from timm_backbones_ext.registry import BUILT_IN, VARIANTS

BASES = sorted({VARIANTS[name].base for name in BUILT_IN})
EDITED = sorted(name for name in BUILT_IN if VARIANTS[name].edits)
CASES = [(family, cls.example) for _, cls in sorted(EDITS.items()) for family in cls.families]
SMALL = [(family, example) for family, example in CASES if family != "vgg"]


@pytest.mark.parametrize(("family", "example"), CASES)
def test_an_edited_model_computes_what_its_base_computes(family: str, example: str) -> None:
    testing.check_identity(testing.BASES[family], example)


@pytest.mark.parametrize(("family", "example"), SMALL)
def test_every_new_parameter_learns(family: str, example: str) -> None:
    testing.check_gradients(testing.BASES[family], example)


@pytest.mark.parametrize(("family", "example"), [case for case in CASES if f"ext_{testing.BASES[case[0]]}" in BUILT_IN])
def test_base_weights_load_bit_identical_and_nothing_else_loads(family: str, example: str) -> None:
    testing.check_pretrained(f"ext_{testing.BASES[family]}", example)


@pytest.mark.parametrize(("family", "example"), [case for case in CASES if f"ext_{testing.BASES[case[0]]}" in BUILT_IN])
def test_saving_is_repeatable_and_keeps_the_edits(family: str, example: str) -> None:
    testing.check_saving(f"ext_{testing.BASES[family]}", example)


@pytest.mark.parametrize("name", EDITED)
def test_a_variant_computes_what_its_base_computes(name: str) -> None:
    base = testing.calibrate(timm.create_model(VARIANTS[name].base, num_classes=10)).eval()
    variant = timm.create_model(
        name,
        num_classes=10,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": base.state_dict(), "num_classes": 10},
    ).eval()
    x = testing.image(base, 64, 64)
    for got, expected in zip(testing.outputs(variant.double(), x.double()), testing.outputs(base.double(), x.double())):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("base", BASES)
def test_a_variant_without_edits_is_its_base(base: str) -> None:
    with torch.device("meta"):
        plain, ours = timm.create_model(base), timm.create_model(f"ext_{base}")
    assert type(ours) is type(plain)
    assert str(ours) == str(plain)
    described = {key: (value.shape, value.dtype) for key, value in plain.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in ours.state_dict().items()} == described


@pytest.mark.parametrize("order", list(itertools.permutations(["dcn(stages=(4,))", "frozen_bn", "in_chans(5)"])))
def test_edits_combine_in_any_order(order: tuple[str, ...]) -> None:
    plain = testing.calibrate(timm.create_model("resnet18", num_classes=10)).double().eval()
    edited = tbx.edit(copy.deepcopy(plain), *order).eval()
    x = testing.image(edited, 64, 64)
    for got, expected in zip(testing.outputs(edited, x), testing.outputs(plain, x[:, :3]), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EDITED)
def test_init_weights_leaves_every_edit_at_the_identity(name: str) -> None:
    model = timm.create_model(name)
    new = [p for key, p in model.named_parameters() if "conv_offset" in key]
    for parameter in new:
        torch.nn.init.normal_(parameter)
    model.init_weights()
    assert new
    assert all(not parameter.any() for parameter in new)


def test_the_law_sees_a_gate_of_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """What mmcv and the paper do: the mask starts at sigmoid(0)."""
    monkeypatch.setattr(torch.Tensor, "sigmoid", lambda self: 0.5 * torch.special.expit(self))
    with pytest.raises(AssertionError, match="relative difference"):
        testing.check_identity("resnet18", "dcn")


def test_an_edit_reads_back_as_it_is_written() -> None:
    for cls in EDITS.values():
        (edit,) = parse(cls.example)
        assert parse(str(edit)) == (edit,)
