"""The law of the house, for every edit and every variant; a new one is tested without a new line."""

import copy
import itertools

import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs

import timm_backbones_ext as tbx
from timm_backbones_ext import layers, testing
from timm_backbones_ext.edits import EDITS, parse_edits
from timm_backbones_ext.registry import ARCHITECTURES, BUILT_IN, VARIANTS

EDITED = sorted(name for name in BUILT_IN if VARIANTS[name].edits)
PLAIN = sorted(BUILT_IN.difference(EDITED, ARCHITECTURES))
EXAMPLES = [item for _, cls in sorted(EDITS.items()) for item in parse_edits(cls.example)]
CASES = [(testing.base_for(family, item), item) for item in EXAMPLES for family in item.families]
MERGING = [(base, item) for base, item in CASES if item.merges()]
SHARED = [{"dcn", "sac", "rep", "lora"}, {"eca", "se", "cbam", "gca"}]
"""Edits that want the same place in a block."""
ALL_AT_ONCE = {
    "test_resnet": "gca(stages=(4,)), cbam(stages=(3,)), dcn(stages=(4,)), sac(stages=(3,)), se(stages=(2,)), "
    "eca(stages=(1,)), frozen_bn, in_chans(5)",
    "test_convnext": "output_stride(16), out_norm, grn, se(stages=(2,)), dilated_reparam, kernel, eca(stages=(1,)), "
    "overlap_stem, in_chans(4)",
    "tf_efficientnet_b0": "in_chans(4), frozen_bn, kernel, split_norm_act, static_pad",
    "test_efficientnet": "in_chans(4), frozen_bn, kernel, eca(stages=(2,)), se(stages=(3,)), rep",
    "vgg11_bn": "frozen_bn, rep, in_chans(5)",
}


def described(model: torch.nn.Module) -> dict[str, tuple]:
    return {key: (value.shape, value.dtype) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(("base", "item"), CASES, ids=str)
def test_an_edited_model_computes_what_its_base_computes(base: str, item: tbx.Edit) -> None:
    testing.check_identity(base, item)


@pytest.mark.parametrize(("base", "item"), CASES, ids=str)
def test_every_new_parameter_learns(base: str, item: tbx.Edit) -> None:
    testing.check_gradients(base, item)


@pytest.mark.parametrize(("base", "item"), MERGING, ids=str)
def test_merging_gives_the_bases_modules_and_the_same_outputs(base: str, item: tbx.Edit) -> None:
    testing.check_merging(base, item)


@pytest.mark.parametrize(("base", "item"), CASES, ids=str)
def test_base_weights_load_bit_identical_and_nothing_else_loads(base: str, item: tbx.Edit) -> None:
    testing.check_pretrained(base, item)


@pytest.mark.parametrize(("base", "item"), CASES, ids=str)
def test_saving_is_repeatable_and_keeps_the_edits(base: str, item: tbx.Edit) -> None:
    testing.check_saving(base, item)


def split_where_ours_is(model: torch.nn.Module) -> torch.nn.Module:
    """A base whose norms do not hold their activations: the one difference that all our EfficientNets have."""
    return tbx.edit(model, "split_norm_act") if isinstance(model, timm.models.EfficientNet) else model


@pytest.mark.parametrize("name", EDITED)
def test_a_variant_holds_the_tensors_of_its_base(name: str) -> None:
    with torch.device("meta"):
        ours, base = timm.create_model(name), split_where_ours_is(timm.create_model(VARIANTS[name].base))
    assert type(ours) is type(base)
    assert ours.feature_info == base.feature_info
    mine = described(ours)
    for key, (shape, dtype) in described(base).items():
        assert mine[key][1] == dtype
        assert all(new >= old for new, old in zip(mine[key][0], shape, strict=True))


@pytest.mark.parametrize("name", [name for name in EDITED if "50" in name or name.endswith(("tiny_k13", "b0_k13"))])
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


@pytest.mark.parametrize("name", PLAIN)
def test_a_variant_without_edits_is_its_base(name: str) -> None:
    with torch.device("meta"):
        plain, ours = split_where_ours_is(timm.create_model(VARIANTS[name].base)), timm.create_model(name)
    assert type(ours) is type(plain)
    assert str(ours) == str(plain)
    assert described(ours) == described(plain)


@pytest.mark.parametrize("name", ["ext_resnet18", "ext_convnext_atto"])
def test_every_tag_of_a_variant_makes_the_model_that_it_makes_of_the_base(name: str) -> None:
    """The number of classes differs between tags."""
    base = VARIANTS[name].base
    for tag in [tagged.partition(".")[2] for tagged in get_arch_pretrained_cfgs(base)]:
        with torch.device("meta"):
            plain, ours = timm.create_model(f"{base}.{tag}"), timm.create_model(f"{name}.{tag}")
        assert ours.num_classes == plain.num_classes
        assert {key: described(ours)[key] for key in described(plain)} == described(plain)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_tags_of_a_variant_are_those_of_its_base(name: str) -> None:
    ours, theirs = (get_arch_pretrained_cfgs(item) for item in (name, VARIANTS[name].base))
    assert [tagged.partition(".")[2] for tagged in ours] == [tagged.partition(".")[2] for tagged in theirs]
    for mine, base in zip(ours.values(), theirs.values(), strict=True):
        same = ("num_classes", "mean", "std", "classifier", "first_conv", "license", "label_offset", "interpolation")
        assert [getattr(mine, key) for key in same] == [getattr(base, key) for key in same]


@pytest.mark.parametrize("base", ["test_resnet", "test_convnext", "test_efficientnet", "efficientnet_b0", "vgg11_bn"])
def test_a_variant_without_edits_gives_the_bases_outputs_bit_for_bit(base: str) -> None:
    plain = testing.calibrate(testing.create(base, num_classes=10)).eval()
    source = {"state_dict": plain.state_dict(), "num_classes": 10}
    ours = testing.create(f"ext_{base}", num_classes=10, pretrained=True, pretrained_cfg_overlay=source).eval()
    x = testing.image(plain, 64, 64)
    for got, expected in zip(testing.outputs(ours, x), testing.outputs(plain, x), strict=True):
        assert torch.equal(got, expected)


def identity_holds(base: str, *edits: str | tbx.Edit) -> None:
    """In float64 and eval mode, at the base's positions."""
    plain = testing.trained(base, num_classes=10).double()
    edited = tbx.edit(copy.deepcopy(plain), *edits).eval()
    x = testing.image(edited, 64, 64)
    sampling = any(item.sampling for item in parse_edits(edits))
    expected = testing.outputs(plain, x[:, : plain.in_chans])
    assert testing.largest(testing.outputs(edited, x), expected, sampling=sampling) <= 1e-10


@pytest.mark.parametrize(
    ("base", "first", "second"),
    [
        (base, first, second)
        for base in dict.fromkeys(base for base, _ in CASES)
        for first, second in itertools.permutations([item for known, item in CASES if known == base], 2)
    ],
    ids=str,
)
def test_two_edits_combine_in_either_order_or_say_why_not(base: str, first: tbx.Edit, second: tbx.Edit) -> None:
    if any({first.name, second.name} <= place for place in SHARED):
        with pytest.raises(ValueError, match=f"{second.name}: .*(Two|branches)"):
            tbx.edit(timm.create_model(base), first, second)
    else:
        identity_holds(base, first, second)


@pytest.mark.parametrize("base", ALL_AT_ONCE)
@pytest.mark.parametrize("step", [1, -1])
def test_all_edits_of_a_family_combine_in_either_order(base: str, step: int) -> None:
    identity_holds(base, *parse_edits(ALL_AT_ONCE[base])[::step])


@pytest.mark.parametrize("base", ALL_AT_ONCE)
def test_init_weights_leaves_every_edit_at_the_identity(base: str) -> None:
    model = tbx.edit(testing.create(base, num_classes=10), ALL_AT_ONCE[base])
    model = model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.constant_(tensor, float("nan"))
    model.init_weights()
    plain = testing.create(base, num_classes=10).double().eval()
    plain.load_state_dict(base_part(model, plain))
    x = testing.image(model, 64, 64).double()
    sampling = any(item.sampling for item in parse_edits(model.edits))
    expected = testing.outputs(plain, x[:, : plain.in_chans])
    assert testing.largest(testing.outputs(model.double().eval(), x), expected, sampling=sampling) <= 1e-10


def base_part(model: torch.nn.Module, plain: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the base inside an edited model: of those that grew, what is not zero."""
    part = {}
    for key, old in plain.state_dict().items():
        value = model.state_dict()[key]
        if value.shape != old.shape:
            used = [value.abs().sum(dim=[d for d in range(value.dim()) if d != axis]).nonzero() for axis in range(4)]
            value = value[tuple(slice(int(index.min()), int(index.max()) + 1) for index in used)]
        part[key] = value
    return part


def test_grn_folds_into_a_block_that_timms_v2_loads() -> None:
    plain = testing.calibrate(timm.create_model("convnext_atto", num_classes=10)).double().eval()
    edited = tbx.edit(copy.deepcopy(plain), "grn(fold=True)").eval()
    twin = timm.create_model("convnextv2_atto", num_classes=10).double().eval()
    twin.load_state_dict(edited.state_dict(), strict=True)
    x = testing.image(plain, 75, 50)
    assert testing.largest(testing.outputs(edited, x), testing.outputs(plain, x)) <= 1e-10
    assert testing.largest(testing.outputs(twin, x), testing.outputs(edited, x)) <= 1e-10


@pytest.mark.parametrize("stride", [8, 16])
def test_a_convnext_made_with_an_output_stride_holds_the_levels_of_stride_32(stride: int) -> None:
    """timm 1.0.31 shifts stage 4 by a pixel at stride 8."""
    plain = testing.calibrate(timm.create_model("convnext_atto", num_classes=0)).double().eval()
    x, expected = testing.image(plain, 64, 96), testing.outputs(plain, testing.image(plain, 64, 96))
    differences = {}
    for name in ("ext_convnext_atto", "convnext_atto"):
        dilated = timm.create_model(name, output_stride=stride, num_classes=0).double().eval()
        dilated.load_state_dict(plain.state_dict())
        assert dilated.feature_info[-1]["reduction"] == stride
        differences[name] = testing.largest(testing.outputs(dilated, x), expected, sampling=True)
    assert differences["ext_convnext_atto"] <= 1e-10
    assert differences["convnext_atto"] > 0.1 if stride == 8 else differences["convnext_atto"] <= 1e-10


def test_tensorflows_weights_need_their_pads() -> None:
    """A net without them computes something else; with static ones it does at sides that are no multiples of 32."""
    plain = testing.calibrate(timm.create_model("tf_efficientnet_b0", num_classes=10)).double().eval()
    native = timm.create_model("efficientnet_b0", num_classes=10).double().eval()
    native.load_state_dict(plain.state_dict())
    static = tbx.edit(copy.deepcopy(plain), "static_pad")
    x, odd = testing.image(plain, 64, 64), testing.image(plain, 61, 64)
    assert testing.largest(testing.outputs(native, x), testing.outputs(plain, x)) > 0.1
    assert testing.largest(testing.outputs(static, x), testing.outputs(plain, x)) <= 1e-10
    assert [level.shape for level in testing.outputs(static, odd)] != [o.shape for o in testing.outputs(plain, odd)]


def test_the_law_sees_a_gate_of_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """What mmcv and the paper do: the mask starts at sigmoid(0), here as 2 * sigmoid(log(1 / 3))."""

    def start_at_half(self: layers.DeformConv2d) -> None:
        torch.nn.init.zeros_(self.conv_offset.weight)
        torch.nn.init.constant_(self.conv_offset.bias, 0)
        with torch.no_grad():
            self.conv_offset.bias[18:] = torch.logit(torch.tensor(0.25))

    monkeypatch.setattr(layers.DeformConv2d, "reset_identity", start_at_half)
    with pytest.raises(AssertionError, match="relative difference"):
        testing.check_identity("resnet18", "dcn")


def test_the_law_sees_an_edit_that_can_never_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in both layers of an SE leave it without gradients for good."""
    monkeypatch.setattr(layers.Se, "zeroed", ("fc1", "fc2"))
    with pytest.raises(AssertionError, match=r"no gradient in three steps for .*fc1"):
        testing.check_gradients("resnet18", "se")


def test_zeros_in_the_conv_before_a_norm_blow_up_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is why the norm's weight starts at zero: with zeros in the conv, gradients are hundreds of times as big."""

    def zero_the_conv(self: layers.Cbam) -> None:
        torch.nn.init.zeros_(self.channel.fc2.weight)
        torch.nn.init.zeros_(self.spatial.conv.conv.weight)

    def largest_gradient() -> float:
        model = tbx.edit(testing.calibrate(timm.create_model("resnet18", num_classes=10)), "cbam").train()
        torch.nn.functional.cross_entropy(model(testing.image(model, 64, 64, batch=4)), torch.arange(4)).backward()
        return max(p.grad.norm().item() for name, p in model.named_parameters() if ".se." in name)

    right = largest_gradient()
    monkeypatch.setattr(layers.Cbam, "reset_identity", zero_the_conv)
    monkeypatch.setattr(layers.Cbam, "zeroed", ())
    assert largest_gradient() > 100 * right


def test_an_edit_reads_back_as_it_is_written() -> None:
    for cls in EDITS.values():
        (edit,) = parse_edits(cls.example)
        assert parse_edits(str(edit)) == (edit,)
