"""OpenMMLab: mmpretrain's `TIMMBackbone`, by which mmdet and mmsegmentation take timm's models too."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("mmcv", reason="has an environment of its own")

from mmpretrain.models import TIMMBackbone
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

CLIENT = "mmpretrain"
REMARK = (
    "Beside transformers 5 mmpretrain cannot be imported, so it has an environment of its own, with mmcv-lite 2.1. "
    "The detectors of mmdet and mmsegmentation were not run: they import mmcv's compiled operators (`No module named "
    "'mmcv._ext'`), mmcv 2.1 and 2.2 have no wheel for this torch, and pip's build of the source stops at `No module "
    "named 'pkg_resources'`."
)


def classifier(name: str, **kwargs: object) -> nn.Module:
    backbone = {"type": "TIMMBackbone", "model_name": name, **kwargs}
    width = MODELS.build(backbone)(torch.rand(2, 3, 64, 64))[-1].shape[1]
    head = {"type": "LinearClsHead", "num_classes": 3, "in_channels": width}
    neck = {"type": "GlobalAveragePooling"}
    return MODELS.build({"type": "ImageClassifier", "backbone": backbone, "neck": neck, "head": head})


def loss(model: nn.Module) -> torch.Tensor:
    samples = [DataSample().set_gt_label(label) for label in (0, 2)]
    return model.train()(torch.rand(2, 3, 64, 64), samples, mode="loss")["loss"]


def test_a_classifier_trains(name: str, learns: Callable) -> None:
    """`ImageClassifier` on `TIMMBackbone`"""
    model = classifier(name)
    learns(model.backbone, loss(model))


def test_a_classifier_trains_on_features(name: str, learns: Callable) -> None:
    """`ImageClassifier` on `TIMMBackbone(features_only=True)`"""
    model = classifier(name, features_only=True)
    assert len(model.backbone(torch.rand(2, 3, 64, 64))) == len(model.backbone.timm_model.feature_info.channels())
    learns(model.backbone, loss(model))


def test_features_start_from_a_checkpoint_of_the_classifier(name: str, tmp_path: Path) -> None:
    """`TIMMBackbone(features_only=True, checkpoint_path=...)`, which fails with timm's names"""
    backbone, levels, x = started(name, tmp_path)
    for ours, level in zip(backbone(x), levels, strict=True):
        torch.testing.assert_close(ours, level)


def test_features_of_timm_do_not_start_from_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Unexpected key"):
        started("resnet18", tmp_path)


def started(name: str, folder: Path) -> tuple[nn.Module, list[torch.Tensor], torch.Tensor]:
    """A feature model with a classifier's weights, and the maps that the classifier has for an image."""
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), folder / "weights.safetensors")
    backbone = TIMMBackbone(name, features_only=True, checkpoint_path=str(folder / "weights.safetensors"))
    backbone.eval()  # returns nothing
    x = torch.rand(2, 3, 64, 64)
    return backbone, whole.forward_intermediates(x)[1], x
