"""How often a load builds a model: once without data, and once more only for what the file cannot give."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import ResNet

from timm_backbones_ext import testing
from timm_backbones_ext.edits.dcn import Dcn

Counts = dict[str, int]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """How many ResNets were constructed, and how many deformable edits applied."""
    counted = {"built": 0, "applied": 0}
    construct, apply = ResNet.__init__, Dcn.apply

    def counting_construct(self: ResNet, *args: object, **kwargs: object) -> None:
        counted["built"] += 1
        construct(self, *args, **kwargs)

    def counting_apply(self: Dcn, model: ResNet) -> None:
        counted["applied"] += 1
        apply(self, model)

    monkeypatch.setattr(ResNet, "__init__", counting_construct)
    monkeypatch.setattr(Dcn, "apply", counting_apply)
    return counted


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(testing.calibrate(timm.create_model("resnet18")).state_dict(), path)
    return {"file": str(path)}


@pytest.mark.parametrize(
    ("kwargs", "built"),
    [({}, 1), ({"features_only": True}, 1), ({"num_classes": 0}, 1), ({"num_classes": 5}, 2), ({"in_chans": 1}, 2)],
    ids=str,
)
def test_a_load_builds_one_model_without_data(kwargs: dict, built: int, source: dict, counts: Counts) -> None:
    timm.create_model("ext_resnet18", edits=["dcn", "eca"], pretrained=True, pretrained_cfg_overlay=source, **kwargs)
    assert counts["built"] == built
    assert counts["applied"] <= 2 * built


def test_a_model_without_weights_is_built_once(counts: Counts) -> None:
    timm.create_model("ext_resnet18", edits=["dcn", "eca"])
    assert counts == {"built": 1, "applied": 1}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "kwargs", [{}, {"num_classes": 5}, {"drop_path_rate": 0.1}, {"in_chans": 1}, {"features_only": True}], ids=str
)
def test_a_mapped_file_gives_the_tensors_that_timm_copies(
    kwargs: dict, dtype: torch.dtype | None, source: dict
) -> None:
    options = {**kwargs, **({"dtype": dtype} if dtype else {})}
    made = []
    for name in ("ext_resnet18", "resnet18"):
        torch.manual_seed(0)
        made.append(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **options))
    ours, theirs = (model.state_dict() for model in made)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype
        assert ours[key].equal(value), key
    assert [p.requires_grad for p in made[0].parameters()] == [p.requires_grad for p in made[1].parameters()]


def test_training_leaves_the_file_alone(source: dict) -> None:
    options = {"pretrained": True, "pretrained_cfg_overlay": source}
    model, before = timm.create_model("ext_resnet18", **options), timm.create_model("resnet18", **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    after = timm.create_model("resnet18", **options)
    assert all(value.equal(after.state_dict()[key]) for key, value in before.state_dict().items())
