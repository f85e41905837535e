"""effdet: EfficientDet on our names, by a config of one's own."""

from collections.abc import Callable

import pytest
import torch
from effdet import DetBenchPredict, DetBenchTrain, EfficientDet
from effdet.config import get_efficientdet_config
from effdet.efficientdet import BiFpn
from omegaconf import DictConfig
from torch import nn

from timm_backbones_ext import testing
from timm_backbones_ext.detection import necks

CLIENT = "effdet"
SIDE = 128


def config(name: str) -> DictConfig:
    """A small EfficientDet on three maps."""
    config = get_efficientdet_config("efficientdet_d0")
    config.update(backbone_name=name, backbone_args={}, backbone_indices=None, image_size=(SIDE, SIDE))
    config.update(num_classes=3, fpn_channels=32, fpn_cell_repeats=1, box_class_repeats=1)
    return config


def test_efficientdet_trains_and_detects(name: str, learns: Callable) -> None:
    """`EfficientDet`, `backbone_name` and `backbone_indices` in the config"""
    made = config(name)
    made.backbone_indices = (1, 2, 3) if "convnext" in name else (2, 3, 4)
    model = EfficientDet(made, pretrained_backbone=False)
    x = torch.rand(2, 3, SIDE, SIDE)
    target = {"bbox": [torch.tensor([[20.0, 10, 60, 70]])] * 2, "cls": [torch.tensor([1])] * 2}
    learns(model.backbone, DetBenchTrain(model).train()(x, target)["loss"])
    with torch.no_grad():
        assert DetBenchPredict(model).eval()(x).shape == (2, 100, 6)


def test_efficientdet_finds_the_maps_by_itself(name: str, request: pytest.FixtureRequest) -> None:
    """`EfficientDet` without `backbone_indices`"""
    if "convnext" in name:
        reason = (
            "It takes levels 2 to 4; a ConvNeXt has 0 to 3. Set `backbone_indices` (timm's `convnext_atto` fails too)."
        )
        request.applymarker(pytest.mark.xfail(reason=reason, raises=ValueError, strict=True))
    model = EfficientDet(config(name), pretrained_backbone=False)
    assert model.backbone.feature_info.reduction() == [8, 16, 32]


def test_a_convnext_of_timm_is_not_found_either() -> None:
    with pytest.raises(IndexError):
        EfficientDet(config("convnext_atto"), pretrained_backbone=False)


@pytest.mark.parametrize("size", [(128, 128), (128, 256)])
@pytest.mark.parametrize(("widths", "extra"), [((24, 32, 48), 2), ((24, 48), 1), ((24, 48, 32), 2), ((48, 24, 32), 0)])
def test_a_bifpn_of_ours_computes_what_effdets_does(widths: tuple, extra: int, size: tuple) -> None:
    last = 2 + len(widths) + extra
    made = config("ext_resnet18")
    made.update(image_size=size, fpn_cell_repeats=3, max_level=last, num_levels=last - 2)
    theirs = BiFpn(made, [{"num_chs": width} for width in widths]).eval()
    for key, tensor in theirs.state_dict().items():
        if tensor.ndim == 1:  # norms, their statistics, and the shares of what is added, of which some are negative
            nn.init.uniform_(tensor, -0.3 if "edge_weights" in key else 0.1, 1.5)
    ours = necks.BiFpn(widths, 32, extra).eval()
    values = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    maps = {str(i): torch.randn(2, width, *(side >> i + 3 for side in size)) for i, width in enumerate(widths)}
    expected = theirs(list(maps.values()))
    assert len(expected) == len(widths) + extra
    assert testing.largest(list(ours(maps).values()), expected) < 1e-5
