"""A checkpoint of the base loads into an edited model by every route that timm's users take."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import load_checkpoint
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

EDITS = ["dcn(stages=[4])", "eca", "in_chans(5)"]


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return testing.calibrate(timm.create_model("resnet18", num_classes=10)).eval()


@pytest.fixture(scope="module")
def file(base: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(base.state_dict(), path)
    return str(path)


def edited() -> nn.Module:
    return timm.create_model("ext_resnet18", edits=EDITS, num_classes=10)


def by_load_state_dict(base: nn.Module, file: str) -> nn.Module:
    model = edited()
    model.load_state_dict(base.state_dict())
    return model


def by_load_checkpoint(base: nn.Module, file: str) -> nn.Module:
    """As timm's validate.py does with `--checkpoint`."""
    model = edited()
    load_checkpoint(model, file)
    return model


def by_checkpoint_path(base: nn.Module, file: str) -> nn.Module:
    """As timm's train.py does with `--initial-checkpoint`."""
    return timm.create_model("ext_resnet18", edits=EDITS, num_classes=10, checkpoint_path=file)


def by_the_checkpoint_of_a_training_run(base: nn.Module, file: str) -> nn.Module:
    """With a pickle that holds more than weights, of a model that was trained in DataParallel."""
    path = Path(file).with_suffix(".pth.tar")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in base.state_dict().items()}}, path)
    return timm.create_model("ext_resnet18", edits=EDITS, num_classes=10, checkpoint_path=str(path))


def by_a_live_edit(base: nn.Module, file: str) -> nn.Module:
    model = tbx.edit(timm.create_model("resnet18", num_classes=10), *EDITS)
    model.load_state_dict(base.state_dict())
    return model


def inside_a_detector(base: nn.Module, file: str) -> nn.Module:
    detector = nn.ModuleDict({"backbone": edited()})
    detector.load_state_dict({f"backbone.{key}": value for key, value in base.state_dict().items()})
    return detector["backbone"]


def by_a_copy(base: nn.Module, file: str) -> nn.Module:
    model = copy.deepcopy(edited())
    model.load_state_dict(base.state_dict())
    return model


def by_a_pickled_model(base: nn.Module, file: str) -> nn.Module:
    model = pickle.loads(pickle.dumps(edited()))
    model.load_state_dict(base.state_dict(), assign=True)
    return model


ROUTES = [
    by_load_state_dict,
    by_load_checkpoint,
    by_checkpoint_path,
    by_the_checkpoint_of_a_training_run,
    by_a_live_edit,
    inside_a_detector,
    by_a_copy,
    by_a_pickled_model,
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_a_base_checkpoint_loads(route: Callable[[nn.Module, str], nn.Module], base: nn.Module, file: str) -> None:
    model = route(base, file).eval()
    x = testing.image(model, 64, 64)
    assert testing.largest(testing.outputs(model, x), testing.outputs(base, x[:, :3])) <= 1e-5
    assert model.conv1.weight[:, :3].equal(base.conv1.weight)


def test_a_checkpoint_of_the_first_edits_loads(base: nn.Module) -> None:
    first = tbx.edit(copy.deepcopy(base), EDITS[0])
    nn.init.normal_(first.layer4[0].conv2.conv_offset.weight, std=0.1)
    model = edited()
    model.load_state_dict(first.state_dict())
    assert model.layer4[0].conv2.conv_offset.weight.equal(first.layer4[0].conv2.conv_offset.weight)
    x = testing.image(model, 64, 64)
    assert testing.largest(testing.outputs(model.eval(), x), testing.outputs(first.eval(), x[:, :3])) <= 1e-5


def test_the_caller_keeps_the_state_dict(base: nn.Module) -> None:
    weights = base.state_dict()
    model = edited()
    model.load_state_dict(weights)
    with torch.no_grad():
        model.layer1[0].conv1.weight.zero_()
    assert weights.keys() == base.state_dict().keys()
    assert base.layer1[0].conv1.weight.any()


def test_a_new_classifier_goes_with_a_checkpoint_that_has_it(base: nn.Module) -> None:
    """The classifier was reset after the edits."""
    model = timm.create_model("ext_resnet18", edits=EDITS)
    model.reset_classifier(10)
    model.load_state_dict(base.state_dict())
    assert model.fc.weight.equal(base.fc.weight)


def test_what_fits_no_edit_is_an_error_that_names_the_rule(base: nn.Module) -> None:
    weights = base.state_dict()
    del weights["layer3.0.bn1.bias"]
    rule = r"(?s)layer3.0.bn1.bias.*the first k of its edits, .* of this ResNet: dcn.*, eca, in_chans\(n=5\)"
    with pytest.raises(tbx.WeightsError, match=rule):
        edited().load_state_dict(weights)
    loose = timm.create_model("ext_resnet18", edits=EDITS[0], num_classes=10).load_state_dict(weights, strict=False)
    assert set(loose.missing_keys) > {"layer3.0.bn1.bias", "layer4.0.conv2.conv_offset.weight"}


def test_merged_edits_are_no_part_of_the_rule(base: nn.Module) -> None:
    model = tbx.merge(tbx.edit(copy.deepcopy(base), "rep", "eca"), "rep")
    model.load_state_dict(base.state_dict())
    with pytest.raises(tbx.WeightsError, match="ResNet: eca"):
        model.load_state_dict(tbx.edit(copy.deepcopy(base), "rep").state_dict())
