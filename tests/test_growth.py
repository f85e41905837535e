"""Growth is exact, all new tensors get gradients, and growth that cannot be exact raises an error."""

import copy
import json

import pytest
import timm
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli import main
from timm_backbones_ext.families import family_of
from timm_backbones_ext.growth import _Grower

SLIM = {"mlp_ratio": 1 / 64}
PAIRS = [
    ("resnet18", "resnet34", {}, {}),
    ("resnet50", "wide_resnet50_2", {}, {}),
    ("convnext_atto", "convnext_atto", {}, {"depths": (2, 2, 8, 3)}),
    ("convnextv2_atto", "convnextv2_atto", {}, {"depths": (2, 3, 6, 2)}),
    ("efficientnet_b0", "efficientnet_b1", {}, {}),
    ("efficientnet_b1", "efficientnet_b2", {}, {}),
    ("vgg11", "vgg13", SLIM, {}),
    ("vgg11_bn", "vgg16_bn", SLIM, {}),
]
LARGE = [
    ("resnet50", "resnet101", {}, {}),
    ("resnet101", "resnet152", {}, {}),
    ("convnext_tiny", "convnext_small", {}, {}),
    ("efficientnet_b2", "efficientnet_b3", {}, {}),
    ("efficientnet_b3", "efficientnet_b4", {}, {}),
    ("ext_efficientnet_b0", "efficientnet_b3", {}, {}),
    ("tf_efficientnet_lite0", "tf_efficientnet_lite1", {}, {}),
    ("tf_efficientnet_lite1", "tf_efficientnet_lite2", {}, {}),
    ("vgg13", "vgg16", SLIM, {}),
    ("vgg16_bn", "vgg19_bn", SLIM, {}),
]
EDITED = [
    ("ext_resnet18_dcn", "resnet34", {"edits": "eca, in_chans(4)"}, {}),
    ("ext_convnext_atto", "convnext_atto", {"edits": "kernel, grn, out_norm"}, {"depths": (2, 2, 7, 2)}),
    ("ext_efficientnet_b1", "efficientnet_b2", {"edits": "kernel, in_chans(4), frozen_bn"}, {}),
    ("ext_vgg11_bn", "vgg13_bn", {"edits": "rep", **SLIM}, {}),
]


def trained(name: str, **kwargs: object) -> nn.Module:
    """A model as after training, in float64."""
    return testing.calibrate(timm.create_model(name, num_classes=10, **kwargs)).double().eval()


def outputs(model: nn.Module, x: Tensor, like: list[Tensor] | None = None) -> list[Tensor]:
    """Every level and the logits; of more channels those that `like` has."""
    found = testing.outputs(model, x)
    return found if like is None else [level[:, : old.shape[1]] for level, old in zip(found, like, strict=True)]


@pytest.mark.parametrize(("small", "large", "made", "grown"), [*PAIRS, *EDITED])
def test_a_grown_model_computes_what_the_small_one_computes(small: str, large: str, made: dict, grown: dict) -> None:
    model = trained(small, **made)
    before = copy.deepcopy(model.state_dict())
    bigger = tbx.grow(model, to=large, **grown)
    x = testing.image(model, 64, 64)
    with torch.inference_mode():
        wanted = outputs(model, x)
        assert testing.largest(outputs(bigger, x, wanted), wanted) <= 1e-10
    assert all(value.equal(model.state_dict()[key]) for key, value in before.items())
    assert sum(p.numel() for p in bigger.parameters()) > sum(p.numel() for p in model.parameters())
    assert getattr(bigger, "edits", ()) == getattr(model, "edits", ())


@pytest.mark.parametrize(("small", "large", "made", "grown"), LARGE)
def test_a_larger_pair_has_a_tensor_for_every_tensor(small: str, large: str, made: dict, grown: dict) -> None:
    """Without data: the steps are those of the pairs above, with more blocks and channels."""
    with torch.device("meta"):
        model, bigger = timm.create_model(small, **made), timm.create_model(large, **{**made, **grown})
        state = _Grower(model, bigger, family_of(model).growth(model, bigger)).state()
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in bigger.state_dict().items()}


def test_a_net_of_the_compound_rule_grows_to_a_larger_phi_and_from_b0() -> None:
    model = testing.calibrate(timm.create_model("efficientnet_b0", num_classes=10)).eval()
    bigger = tbx.grow(model, phi=0.5)
    x = testing.image(model, 64, 64)
    with torch.inference_mode():
        wanted = outputs(model, x)
        assert testing.largest(outputs(bigger, x, wanted), wanted) <= 1e-4
    assert bigger.pretrained_cfg["input_size"] == (3, 240, 240)
    with pytest.raises(ValueError, match="a net cannot shrink"):
        tbx.grow(bigger, phi=0.0)
    with pytest.raises(ValueError, match="expected the name of a larger architecture"):
        tbx.grow(bigger)


@pytest.mark.slow
def test_a_resnet50_grows_to_1001_layers() -> None:
    model = testing.calibrate(timm.create_model("resnet50", num_classes=10)).eval()
    bigger = tbx.grow(model, to="ext_resnet1001")
    layers = [name for name, layer in bigger.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "downsample" not in name]) == 1001
    x = testing.image(model, 32, 32)
    with torch.inference_mode():
        assert torch.equal(bigger(x), model(x))


@pytest.mark.parametrize(("small", "large", "made", "grown"), [*PAIRS[:6], *EDITED[:2], PAIRS[-1]])
def test_every_new_tensor_learns_within_three_steps(small: str, large: str, made: dict, grown: dict) -> None:
    model = testing.calibrate(timm.create_model(small, num_classes=10, **made))
    bigger = tbx.grow(model, to=large, **grown).train()
    old = {key: value.shape for key, value in model.named_parameters()}
    new = [key for key, value in bigger.named_parameters() if old.get(key) != value.shape and "out_norms" not in key]
    assert new
    optimizer, alive = torch.optim.SGD(bigger.parameters(), lr=1e-2), set()
    x, target = testing.image(bigger, 64, 64, batch=4), torch.arange(4)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(bigger(x), target).backward()
        alive |= {key for key in new if (grad := bigger.get_parameter(key).grad) is not None and grad.abs().sum() > 0}
        optimizer.step()
    assert sorted(alive) == sorted(new)


def test_copies_of_a_channel_learn_different_things() -> None:
    model = testing.calibrate(timm.create_model("efficientnet_b1", num_classes=10))
    bigger = tbx.grow(model, to="efficientnet_b2").train()
    flat = bigger.bn2.running_mean
    twins = [(1280 + i, (flat[:1280] == value).nonzero()[0].item()) for i, value in enumerate(flat[1280:])]
    bigger(testing.image(bigger, 64, 64, batch=4)).square().sum().backward()
    grad = bigger.conv_head.weight.grad
    assert twins
    assert all((grad[new] - grad[old]).abs().max() > 0 for new, old in twins)


def test_the_seed_decides_what_is_copied() -> None:
    model = timm.create_model("efficientnet_b1", num_classes=10)
    first, again, other = (tbx.grow(model, to="efficientnet_b2", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(value.equal(again[key]) for key, value in first.items())
    assert not first["conv_head.weight"].equal(other["conv_head.weight"])


def test_a_state_dict_before_the_edits_still_loads_into_a_grown_model() -> None:
    bigger = tbx.grow(trained("ext_resnet18_dcn"), to="resnet34")
    bigger.load_state_dict(timm.create_model("resnet34", num_classes=10).double().state_dict())


@pytest.mark.parametrize(
    ("small", "large", "kwargs", "message"),
    [
        ("convnext_atto", "convnext_femto", {}, "stem.0.weight would grow .*layer norms take means over the channels"),
        ("resnet34", "resnet18", {}, "layer1 has 3 blocks and would have 2; a net cannot shrink"),
        ("resnet18", "resnet50", {}, "the smaller net has no layer1.0.conv3.weight; nets of different blocks"),
        ("resnet18", "vgg11", {}, "vgg11 is a vgg and the model a resnet"),
        ("efficientnet_b2", "efficientnet_b1", {}, "a net cannot shrink"),
        ("efficientnet_b0", "tf_efficientnet_b1", {}, "computes something else with the same tensors"),
        ("ext_efficientnet_b1", "ext_resnet18_dcn", {}, "has the edits dcn; the model has "),
    ],
)
def test_what_cannot_be_exact_is_refused_with_the_reason(small: str, large: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tbx.grow(timm.create_model(small, num_classes=10, **kwargs), to=large)


def test_width_of_a_grn_is_refused() -> None:
    model = timm.create_model("convnextv2_atto", num_classes=10)
    plan = family_of(model).growth(model, model)
    assert {space.writes for space in plan.widths.values() if space.writes.startswith("grn of")}
    grower = _Grower(model, model, plan)
    with pytest.raises(ValueError, match="GRN divides by a mean over the channels of its MLP"):
        grower._copied("grn of stages.0.blocks.0", 160, 200)


def test_an_edit_that_counts_channels_does_not_grow_in_width() -> None:
    model = tbx.edit(timm.create_model("resnet50", num_classes=10), "eca")
    with pytest.raises(ValueError, match=r"the edit eca has tensors for a number of channels. Grow the net first"):
        tbx.grow(model, to="wide_resnet50_2")


def test_the_growth_is_in_the_config_and_the_card(tmp_path) -> None:
    model = timm.create_model("ext_resnet18_dcn", num_classes=10)
    done = tbx.save(tbx.grow(model, to="resnet34", seed=3), tmp_path)
    config = json.loads((done / "config.json").read_text())
    note = "Grown from ext_resnet18_dcn.a1_in1k to resnet34, which computed the same then (seed 3)."
    assert config["pretrained_cfg"]["notes"] == [note]
    assert config["model_args"]["edits"] == ["dcn"]
    card = (done / "README.md").read_text()
    assert note in card
    assert "base_model" not in card
    again = timm.create_model(f"local-dir:{done}", pretrained=True)
    assert again.pretrained_cfg["notes"] == [note]
    assert len(again.layer3) == 6


def test_the_command_grows_and_saves(tmp_path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["grow", "resnet18", "resnet34", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parameters"] == [11689512, 21797672]
    assert done.stderr.splitlines()[0] == "making resnet18"
    assert "growing to resnet34, and comparing what the two compute" in done.stderr
    again = CliRunner().invoke(main, ["grow", str(out), "resnet34", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    assert "resnet34 with 21.80M parameters, grown from" in again.stdout
    shrunk = CliRunner().invoke(main, ["grow", "resnet34", "resnet18", str(tmp_path / "x")])
    assert shrunk.exit_code == 2
    assert "a net cannot shrink" in shrunk.stderr
