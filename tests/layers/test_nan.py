"""NaN in is NaN out: each case runs in a process of its own, so that a crash is a failure and not the end of the tests.

torchvision's deformable conv reads outside the image for a NaN offset on the CPU (exit status -11).
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from timm_backbones_ext.layers import DeformConv2d

MODELS = """
import timm, torch
from timm_backbones_ext import testing
for edits in ("dcn", "sac", "dcn(stages=[4]), sac(stages=[3])"):
    print(edits, flush=True)
    torch.manual_seed(0)
    model = testing.calibrate(timm.create_model("ext_test_resnet", edits=edits, num_classes=10)).eval()
    x = torch.randn(2, 3, 64, 64)
    good = model(x)
    x[0, 0, 30, 30] = float("nan")
    bad = model(x)
    assert bad[0].isnan().all()
    torch.testing.assert_close(bad[1], good[1])
    model.train()(x).sum().backward()  # a diverging run
    assert model.layer4[0].conv2.weight.grad.isnan().all()
for part in ("weight", "bias"):
    print("offset", part, flush=True)
    model = testing.calibrate(timm.create_model("ext_test_resnet", edits="dcn", num_classes=10)).eval()
    with torch.no_grad():
        getattr(model.layer3[0].conv2.conv_offset, part)[3] = float("nan")  # one offset and no mask
    assert model(torch.randn(2, 3, 64, 64)).isnan().all()
"""
LAYER = """
import sys, warnings, torch
warnings.filterwarnings("ignore")
from timm_backbones_ext.layers import DeformConv2d
torch.manual_seed(0)
layer = DeformConv2d(4, 6, 3, padding=1)
torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
clean = torch.randn(1, 4, 12, 12)
x = clean.clone()
x[0, 1, 5, 5] = float("nan")

def check(y, form):
    print(form, flush=True)
    assert y[:, :, 4:7, 4:7].isnan().all(), "the windows that hold the NaN"
    assert y[:, :, 0, 0].isfinite().all(), "a window far from it"
"""
FORMS = """
check(layer(x), "eager")
check(torch.jit.script(layer)(x), "script")
check(torch.export.export(layer, (clean,)).module()(x), "export")
"""
ONNX = """
import onnxruntime
torch.onnx.export(layer, (clean,), sys.argv[1], opset_version=19, dynamo=True, verbose=False)
session = onnxruntime.InferenceSession(sys.argv[1])
name = session.get_inputs()[0].name
check(torch.from_numpy(session.run(None, {name: x.numpy()})[0]), "onnx")
got = torch.from_numpy(session.run(None, {name: clean.numpy()})[0])
torch.testing.assert_close(got, layer(clean), rtol=1e-4, atol=1e-5)
"""


def run(code: str, *args: object) -> None:
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit status {done.returncode} after {done.stdout}: {done.stderr[-2000:]}"


@pytest.mark.slow
def test_a_nan_in_an_image_or_in_the_weights_of_the_offsets_gives_nan_and_leaves_other_images_alone() -> None:
    run(MODELS)


@pytest.mark.slow
def test_a_nan_spreads_as_far_as_the_windows_that_hold_it_in_scripted_and_exported_layers_too() -> None:
    run(LAYER + FORMS)


@pytest.mark.slow
def test_onnx_runtime_gives_nan_and_the_same_for_finite_offsets(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run(LAYER + ONNX, tmp_path / "layer.onnx")


@pytest.mark.parametrize("scripted", [False, True])
def test_finite_offsets_give_what_torchvision_gives_to_the_bit_gradients_included(scripted: bool) -> None:
    torch.manual_seed(0)
    layer = DeformConv2d(4, 6, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.2)
    x = torch.randn(2, 4, 11, 9, requires_grad=True)
    inputs = [x, *layer.parameters()]
    offset, mask = layer.conv_offset(x).split([18, 9], dim=1)
    expected = deform_conv2d(x, offset, layer.weight, layer.bias, padding=1, mask=2.0 * mask.sigmoid())
    got = (torch.jit.script(layer) if scripted else layer)(x)
    assert torch.equal(got, expected)
    for mine, theirs in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (got, expected)), strict=True):
        assert torch.equal(mine, theirs)
