"""The compound rule, what it recovers of the published nets, and nets within a budget."""

import json
from math import ceil
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from timm.models import EfficientNet
from timm.models._efficientnet_builder import round_channels

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext._timm import gen_efficientnet
from timm_backbones_ext.catalog.scaling import PUBLISHED, STEP, Budget, family, largest_phi, member, read_budget
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.models.ext_efficientnet import LARGEST_PHI, compound

PHIS = [step * STEP / 4 for step in range(round(4 * 8 / STEP))]
"""From 0 to 8, fine enough for the narrowest range of phi that gives a published width."""


def layers(net: EfficientNet) -> list[tuple[int, ...]]:
    """Shapes of all weights: two nets with the same ones differ in nothing but the resolution."""
    return [tuple(p.shape) for p in net.parameters()]


def layout(width: float, depth: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of each stage, by timm's rounding."""
    blocks, channels = (1, 2, 2, 3, 3, 4, 1), (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    return tuple(ceil(n * depth) for n in blocks), tuple(round_channels(c, width) for c in channels)


def test_the_layout_worked_out_here_is_the_one_that_timm_builds() -> None:
    for phi in (0.0, 1.0, 2.5, 6.1):
        with torch.device("meta"):
            net = timm.create_model("ext_efficientnet", phi=phi)
        blocks, channels = layout(*compound(phi)[:2])
        assert tuple(map(len, net.blocks)) == blocks
        norms = (net.bn1, *([*stage[-1].modules()] for stage in net.blocks), net.bn2)
        widths = [norm if hasattr(norm, "num_features") else norm_of(norm) for norm in norms]
        assert tuple(norm.num_features for norm in widths) == channels


def norm_of(modules: list[torch.nn.Module]) -> torch.nn.Module:
    """The last norm of a block, which has the block's width."""
    return [module for module in modules if hasattr(module, "num_features")][-1]


def test_the_rule_recovers_b0_and_b2_the_layers_of_b1_b3_b4_and_nothing_of_b5_to_b7() -> None:
    rule = {phi: compound(phi) for phi in PHIS}
    same_layers = {
        name: [phi for phi, (w, d, _) in rule.items() if layout(w, d) == layout(width, depth)]
        for name, (width, depth, _) in PUBLISHED.items()
    }
    whole = {name: [phi for phi in phis if rule[phi][2] == PUBLISHED[name][2]] for name, phis in same_layers.items()}
    assert [name for name, phis in same_layers.items() if phis] == ["b0", "b1", "b2", "b3", "b4"]
    assert [name for name, phis in whole.items() if phis] == ["b0", "b2"]
    found = {name: round(phis[0], 1) for name, phis in same_layers.items() if phis}
    assert found == {"b0": 0, "b1": 0, "b2": 1, "b3": 1.9, "b4": 3.5}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_table_is_that_of_the_named_nets(name: str) -> None:
    width, depth, resolution = PUBLISHED[name]
    with torch.device("meta"):
        ours = gen_efficientnet("efficientnet_b0", channel_multiplier=width, depth_multiplier=depth)
        named = timm.create_model(f"ext_efficientnet_{name}")
    assert layers(ours) == layers(named)
    stated = timm.get_pretrained_cfg(f"tf_efficientnet_{name}").input_size[-1]
    assert stated == resolution


def test_phi_0_is_b0_and_loads_its_weights() -> None:
    b0 = testing.calibrate(timm.create_model("ext_efficientnet_b0", num_classes=10)).eval()
    net = timm.create_model("ext_efficientnet", num_classes=10).eval()
    net.load_state_dict(b0.state_dict(), strict=True)
    x = testing.image(b0, 64, 64)
    assert torch.equal(net(x), b0(x))


def test_a_scaled_net_is_saved_with_its_phi_and_comes_back(tmp_path: Path) -> None:
    net = timm.create_model("ext_efficientnet", phi=0.6, num_classes=3).eval()
    tbx.save(net, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["model_args"]["phi"] == 0.6
    back = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    x = testing.image(net, 64, 64)
    torch.testing.assert_close(back(x), net(x))
    for key, value in net.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)
    assert back.pretrained_cfg["input_size"][1:] == net.pretrained_cfg["input_size"][1:] == (244, 244)
    assert tbx.verify(tmp_path / "net").same
    params = sum(p.numel() for p in net.parameters())
    assert f"{params / 1e6:.2f}M" in (tmp_path / "net" / "README.md").read_text()


def test_feature_maps_of_a_scaled_net_have_its_widths() -> None:
    with torch.device("meta"):
        net = timm.create_model("ext_efficientnet", phi=1.5, features_only=True)
        maps = net(torch.empty(1, 3, 64, 64))
    assert net.feature_info.channels() == [level.shape[1] for level in maps] == [24, 32, 48, 128, 368]
    assert net.feature_info.reduction() == [2, 4, 8, 16, 32]


@pytest.mark.parametrize("phi", [-0.1, 10.1, float("nan"), float("inf"), "1", True])
def test_a_phi_that_is_no_number_from_0_to_10_is_refused(phi: object) -> None:
    with pytest.raises(ValueError, match="phi must be a number from 0"):
        timm.create_model("ext_efficientnet", phi=phi)


def test_a_size_of_the_users_own_replaces_the_rules() -> None:
    with torch.device("meta"):
        net = timm.create_model("ext_efficientnet", phi=1.0, pretrained_cfg_overlay={"input_size": (3, 128, 128)})
    assert net.pretrained_cfg["input_size"] == (3, 128, 128)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "kind"), [("0.6G", "gmacs"), ("8M", "params")])
def test_the_largest_phi_is_within_the_budget_and_the_next_is_not(text: str, kind: str) -> None:
    budget = read_budget(text)
    assert budget.kind == kind
    phi = largest_phi(budget)
    assert budget.cost(phi) <= budget.limit < budget.cost(round(phi + STEP, 2))


def test_a_budget_above_every_net_gives_the_largest_phi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_backbones_ext.catalog.scaling.LARGEST_PHI", 1.5)
    assert largest_phi(Budget("params", 1e6)) == 1.5
    assert LARGEST_PHI == 10


def test_a_budget_of_time_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm_backbones_ext.catalog.scaling.LARGEST_PHI", 0.5)
    tried: dict[float, float] = {}
    assert largest_phi(read_budget("1000000ms"), tried.__setitem__) == 0.5
    assert tried.keys() == {0.0, 0.5}
    assert all(cost > 0.1 for cost in tried.values())
    with pytest.raises(ValueError, match=r"above the budget of 0\.001 \(latency"):
        largest_phi(read_budget("0.001ms"))


@pytest.mark.parametrize("text", ["2", "2.0 GB", "0M", "-3M", "fast", "ms"])
def test_a_budget_that_cannot_be_read_is_an_error_that_shows_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"2\.0G"):
        read_budget(text)


def test_a_budget_below_b0_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"smallest net, phi=0, is above the budget of 0.1"):
        largest_phi(Budget("gmacs", 0.1))


def test_the_family_has_whole_phis_and_the_last() -> None:
    assert [item.phi for item in family(2.2)] == [0, 1, 2, 2.2]
    assert member(0.0).params == 5_288_548  # 5.3M in the paper


def test_scale_prints_the_family_and_json() -> None:
    shown = CliRunner().invoke(main, ["scale", "--budget", "8M"])
    assert shown.exit_code == 0, shown.stderr
    header, first, last, call = shown.stdout.splitlines()
    assert header.split("\t") == ["phi", "width", "depth", "resolution", "parameters", "GMACs"]
    assert first.split("\t") == ["0", "1.000", "1.000", "224", "5.29M", "0.39"]
    phi = last.split("\t")[0]
    assert call == f'timm.create_model("ext_efficientnet", phi={phi})'
    said = json.loads(CliRunner().invoke(main, ["scale", "--budget", "8M", "--json"]).stdout)
    assert said["phi"] == float(phi) == said["family"][-1]["phi"]
    assert said["budget"] == {"kind": "params", "limit": 8.0}
    wrong = CliRunner().invoke(main, ["scale", "--budget", "6"])
    assert wrong.exit_code == 2
    assert "12M" in wrong.stderr
