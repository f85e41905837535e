"""The table of the families: its published figures where they can be looked up, and the page."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import timm
import torch
import torchvision

ROOT = Path(__file__).parents[2]
_SPEC = spec_from_file_location("families_benchmark", ROOT / "benchmarks" / "families.py")
BENCHMARK = module_from_spec(_SPEC)
_SPEC.loader.exec_module(BENCHMARK)
MEASURED = json.loads((ROOT / "benchmarks" / "families.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("net", [net for net in BENCHMARK.NETS if "pytorch.org" in net.source], ids=str)
def test_an_accuracy_of_torchvision_is_the_one_that_it_states(net: tuple) -> None:
    weights = torchvision.models.get_model_weights(net.name.removeprefix("ext_"))["IMAGENET1K_V1"]
    assert net.top1 == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"], abs=0.005)


def test_four_families_and_swin_are_in_the_table() -> None:
    assert {net["family"] for net in MEASURED["nets"]} == {"VGG", "ResNet", "EfficientNet", "ConvNeXt", "Swin"}
    assert [net["name"] for net in MEASURED["nets"]] == [net.name for net in BENCHMARK.NETS]


@pytest.mark.parametrize("net", MEASURED["nets"], ids=lambda net: net["name"])
def test_parameters_are_those_of_the_model(net: dict) -> None:
    with torch.device("meta"):
        model = timm.create_model(net["name"])
    assert sum(p.numel() for p in model.parameters()) == net["params"]
    assert 0 < net["ms"]["min"] <= net["ms"]["median"] <= net["ms"]["max"]


def test_nets_are_measured_in_turns() -> None:
    nets = tuple(net for net in BENCHMARK.NETS if net.name == "ext_efficientnet_b0")
    found = BENCHMARK.measured(nets, 1)["ext_efficientnet_b0"]
    assert found["ms"]["median"] > 0
    assert found["gmacs"] == pytest.approx(0.39, abs=0.01)  # 0.39B in the paper


def test_the_page_is_made_from_the_json() -> None:
    assert (ROOT / "docs" / "concepts" / "families.md").read_text(encoding="utf-8") == BENCHMARK.page(MEASURED)
