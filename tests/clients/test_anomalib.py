"""anomalib: our names as its feature extractors."""

from collections.abc import Callable

import pytest
import timm
import torch
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.models.image.fastflow.torch_model import FastflowModel
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.stfpm.loss import STFPMLoss
from torch import nn

CLIENT = "anomalib"
REMARK = "`STFPMModel` itself was not run: it always loads pretrained weights."


@pytest.fixture
def layers(name: str) -> list[str]:
    """Two levels, as `feature_info` names them."""
    return [info["module"] for info in timm.create_model(name).feature_info[-3:-1]]


def test_a_student_learns_from_its_teacher(name: str, layers: list[str], learns: Callable) -> None:
    """`TimmFeatureExtractor` with the layers' names: a student trained by `STFPMLoss`"""
    teacher = TimmFeatureExtractor(name, layers, pre_trained=False)
    student = TimmFeatureExtractor(name, layers, pre_trained=False, requires_grad=True)
    x = torch.rand(2, 3, 64, 64)
    maps = student(x)
    assert [level.shape[1] for level in maps.values()] == student.out_dims
    learns(student.feature_extractor, STFPMLoss()(teacher(x), maps))


def test_a_traced_module_is_an_extractor(name: str, layers: list[str], learns: Callable) -> None:
    """`TimmFeatureExtractor` with a model instead of a name, trained"""
    model = timm.create_model(name, num_classes=3)
    head = model.pretrained_cfg["classifier"]
    extractor = TimmFeatureExtractor(model, [*layers, head], requires_grad=True)
    maps = extractor(torch.rand(2, 3, 64, 64))
    learns(extractor.feature_extractor, nn.functional.cross_entropy(maps[head], torch.tensor([0, 1])))


def test_a_memory_of_patches_scores_images(name: str, layers: list[str]) -> None:
    """`PatchcoreModel` and `PadimModel`: fitted on images, scores for others"""
    images = torch.rand(4, 3, 64, 64)
    for model in (
        PatchcoreModel(layers=layers, backbone=name, pre_trained=False, num_neighbors=2),
        PadimModel(backbone=name, layers=layers, pre_trained=False, n_features=16),
    ):
        embedding = model.train()(images)
        model.subsample_embedding(0.5, embedding) if isinstance(model, PatchcoreModel) else model.fit()
        found = model.eval()(images[:2])
        assert torch.isfinite(found.pred_score).all()
        assert found.anomaly_map.shape[-2:] == (64, 64)


NAMED = "FastFlow takes two ResNets and two transformers by their names, and no others (not timm's `resnet34` either)."


@pytest.mark.xfail(reason=NAMED, raises=ValueError, strict=True)
def test_flows_are_built_on_a_backbone(name: str) -> None:
    """`FastflowModel`"""
    FastflowModel((64, 64), name, pre_trained=False, flow_steps=2)


def test_flows_are_not_built_on_resnet34_either() -> None:
    with pytest.raises(ValueError, match="not supported"):
        FastflowModel((64, 64), "resnet34", pre_trained=False, flow_steps=2)
