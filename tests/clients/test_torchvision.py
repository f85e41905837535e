"""torchvision's detectors and feature extraction."""

from collections import OrderedDict
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

CLIENT = "torchvision"
SIDE = 96


class Pyramid(nn.Module):
    """torchvision's FPN on a timm feature model, as its users write it; not a line of ours."""

    out_channels = 32

    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1))
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), self.out_channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.body(x))))


def target() -> list[dict[str, Tensor]]:
    """Two images with a box each."""
    masks = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 20:60, 10:70] = 1
    return [{"boxes": torch.tensor([[10.0, 20, 70, 60]]), "labels": torch.tensor([1]), "masks": masks}] * 2


def detects(detector: nn.Module, learns: Callable[[nn.Module, Tensor], None]) -> None:
    """One training step, then boxes for one image."""
    images = list(torch.rand(2, 3, SIDE, SIDE))
    losses = detector.train()(images, target())
    learns(detector.backbone.body, sum(losses.values()))
    with torch.no_grad():
        (found,) = detector.eval()(images[:1])
    assert found["boxes"].shape == (len(found["scores"]), 4)


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)


SIZES = {"num_classes": 3, "min_size": SIDE, "max_size": SIDE}


def test_faster_rcnn_trains_and_detects(name: str, learns: Callable) -> None:
    """`FasterRCNN` with `FeaturePyramidNetwork` on `features_only`"""
    detects(FasterRCNN(Pyramid(name), rpn_anchor_generator=anchors(), **SIZES), learns)


def test_mask_rcnn_trains_and_detects(name: str, learns: Callable) -> None:
    """`MaskRCNN`, the same"""
    detects(MaskRCNN(Pyramid(name), rpn_anchor_generator=anchors(), **SIZES), learns)


def test_retinanet_trains_and_detects(name: str, learns: Callable) -> None:
    """`RetinaNet`, the same"""
    detects(RetinaNet(Pyramid(name), anchor_generator=anchors(), **SIZES), learns)


def test_fcos_trains_and_detects(name: str, learns: Callable) -> None:
    """`FCOS`, the same"""
    sizes = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    detects(FCOS(Pyramid(name), anchor_generator=sizes, **SIZES), learns)


def children(model: nn.Module) -> list[str]:
    """The modules whose outputs are a feature model's maps."""
    return [info["module"].replace(".", "_") for info in model.feature_info.get_dicts()]


def test_backbone_with_fpn_finds_the_stages(name: str, learns: Callable) -> None:
    """`BackboneWithFPN` on the feature model's own children, in Faster R-CNN"""
    model = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1))
    layers = {module: str(i) for i, module in enumerate(children(model))}
    backbone = BackboneWithFPN(model, layers, model.feature_info.channels(), 32)
    maps = backbone.eval()(torch.rand(1, 3, SIDE, SIDE))
    assert [SIDE // level.shape[-1] for level in list(maps.values())[:3]] == model.feature_info.reduction()
    sizes = AnchorGenerator(((16,), (32,), (64,), (64,)), ((0.5, 1.0, 2.0),) * 4)
    detects(FasterRCNN(backbone, rpn_anchor_generator=sizes, **SIZES), learns)


def test_a_feature_extractor_gives_the_maps_of_features_only(name: str, learns: Callable) -> None:
    """`create_feature_extractor` on the classifier, maps equal to those of `features_only`"""
    classifier = timm.create_model(name, num_classes=3).eval()
    nodes = {info["module"]: str(level) for level, info in enumerate(classifier.feature_info)}
    extractor = create_feature_extractor(classifier, {**nodes, classifier.pretrained_cfg["classifier"]: "logits"})
    features = timm.create_model(name, features_only=True).eval()
    features.load_state_dict(classifier.state_dict())
    x = torch.rand(2, 3, SIDE, SIDE)
    theirs = extractor(x)
    for level, ours in enumerate(features(x)):
        torch.testing.assert_close(theirs[str(level)], ours)
    learns(extractor, nn.functional.cross_entropy(extractor.train()(x)["logits"], torch.tensor([0, 1])))
