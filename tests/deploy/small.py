"""A small model that the tests of this folder deploy."""

from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing


def maps_model() -> nn.Module:
    """The feature maps of a small model, one of them twice."""
    return tbx.wrap(testing.trained("ext_test_resnet", num_classes=10), "list", (3, 1, 3)).eval()
