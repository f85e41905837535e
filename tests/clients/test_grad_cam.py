"""grad-cam: where a classifier looks."""

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import EigenCAM, GradCAM, HiResCAM, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

CLIENT = "grad-cam"


@pytest.mark.parametrize("method", [GradCAM, HiResCAM, LayerCAM, EigenCAM])
def test_a_map_of_the_image_comes_out(name: str, method: type) -> None:
    """`GradCAM`, `HiResCAM`, `LayerCAM`, `EigenCAM` on the module of the last level"""
    model = timm.create_model(name, num_classes=3).eval()
    layer = model.get_submodule(model.feature_info[-1]["module"])
    with method(model=model, target_layers=[layer]) as cam:
        shown = cam(torch.rand(2, 3, 64, 96), targets=[ClassifierOutputTarget(1)] * 2)
    assert shown.shape == (2, 64, 96)
    assert np.isfinite(shown).all()
    assert shown.max() > 0
