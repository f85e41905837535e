"""segmentation-models-pytorch: our names as `tu-` encoders."""

from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import nn

CLIENT = "segmentation-models-pytorch"


def segments(model: nn.Module, learns: Callable, channels: int = 3) -> None:
    """A training step on the Dice loss, then masks of the size of the image."""
    x, classes = torch.rand(2, channels, 64, 96), torch.randint(3, (2, 64, 96))
    learns(model.encoder, DiceLoss("multiclass")(model.train()(x), classes))
    with torch.no_grad():
        assert model.eval()(x).shape == (2, 3, 64, 96)


@pytest.fixture
def encoder(name: str) -> dict:
    return {"encoder_name": f"tu-{name}", "encoder_weights": None, "classes": 3}


def test_unet_trains(encoder: dict, learns: Callable) -> None:
    """`Unet`, `encoder_name="tu-NAME"`"""
    segments(smp.Unet(**encoder), learns)


def test_unet_takes_five_channels(encoder: dict, learns: Callable) -> None:
    """`Unet` with `in_channels=5`"""
    segments(smp.Unet(in_channels=5, **encoder), learns, channels=5)


def test_fpn_trains(encoder: dict, learns: Callable) -> None:
    """`FPN`"""
    segments(smp.FPN(**encoder), learns)


def test_upernet_trains(encoder: dict, learns: Callable) -> None:
    """`UPerNet`"""
    segments(smp.UPerNet(**encoder), learns)


@pytest.mark.parametrize("stride", [8, 16])
def test_deeplab_trains_with_dilated_stages(encoder: dict, stride: int, learns: Callable) -> None:
    """`DeepLabV3Plus` with `encoder_output_stride` 8 and 16"""
    model = smp.DeepLabV3Plus(encoder_output_stride=stride, **encoder)
    assert model.encoder(torch.rand(1, 3, 64, 64))[-1].shape[-1] == 64 // stride
    segments(model, learns)
