"""lightly-train: self-supervised pretraining of our names."""

import os

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"  # it would report each run

from collections.abc import Callable, Sequence
from pathlib import Path

import lightly_train
import numpy as np
import pytest
import timm
import torch
from lightly_train._methods.simclr.simclr import SimCLR
from PIL import Image
from torch import nn

CLIENT = "lightly-train"
REMARK = (
    "Its wrapper takes `num_features` for the width of the last map, which an EfficientNet's is not. Give it "
    '`timm.create_model(NAME, features_only=True)`, not `"timm/NAME"`. Only `method="distillationv3"` asks for the '
    "kind of a model: it does not know the prefix and takes the settings of a transformer."
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images."""
    folder, noise = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(4):
        Image.fromarray(noise.integers(256, size=(80, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def pretrain(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: Callable) -> Callable:
    """A step of SimCLR, whose gradients are looked at; the exported weights."""

    def run(model: str | nn.Module, unused: Sequence[str] = ()) -> dict[str, torch.Tensor]:
        steps = []

        def on_before_optimizer_step(method: SimCLR, *args: object) -> None:
            learned(method.embedding_model.wrapped_model.get_model(), unused)
            steps.append(args)

        monkeypatch.setattr(SimCLR, "on_before_optimizer_step", on_before_optimizer_step)
        arguments = {"method": "simclr", "epochs": 1, "batch_size": 4, "embed_dim": 16, "num_workers": 0}
        arguments |= {"devices": 1, "accelerator": "cpu", "precision": "32", "loggers": {"tensorboard": None}}
        size = {"image_size": (64, 64)}
        lightly_train.pretrain(out=tmp_path / "out", data=images, model=model, transform_args=size, **arguments)
        assert len(steps) == 1
        return torch.load(tmp_path / "out" / "exported_models" / "exported_last.pt", weights_only=True)

    return run


def test_a_name_is_pretrained(name: str, pretrain: Callable, request: pytest.FixtureRequest) -> None:
    """`pretrain(model="timm/NAME")`, SimCLR; the export loads"""
    if "efficientnet" in name:
        reason = (
            "320 channels where `num_features` says 1280 (timm's `efficientnet_b0` fails too): give it a feature model."
        )
        request.applymarker(pytest.mark.xfail(reason=reason, raises=RuntimeError, strict=True))
    model = timm.create_model(name)
    head = model.pretrained_cfg["classifier"].partition(".")[0]
    weights = pretrain(f"timm/{name}", [key for key, _ in model.named_parameters() if key.startswith(f"{head}.")])
    model.load_state_dict(weights)


def test_an_efficientnet_of_timm_is_not_pretrained_either(pretrain: Callable) -> None:
    with pytest.raises(RuntimeError, match="to have 1280 channels, but got 320"):
        pretrain("timm/efficientnet_b0")


def test_a_feature_model_is_pretrained(name: str, pretrain: Callable) -> None:
    """`pretrain(model=...)` with `features_only=True`, SimCLR; the export loads"""
    weights = pretrain(timm.create_model(name, features_only=True))
    timm.create_model(name, features_only=True).load_state_dict(weights)
