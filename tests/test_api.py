"""What timm and torch can do with a model works on edited ones, beyond what timm's own suite asks."""

import io
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

COMBINED = {
    "resnet18": "dcn(stages=(4,)), sac(stages=(3,)), eca(stages=(1,)), se(stages=(2,)), gca(stages=(4,)), in_chans(5)",
    "resnet18 with branches": "rep, cbam, frozen_bn",
    "convnext_atto": "kernel, dilated_reparam, eca(stages=(1,)), se(stages=(2,)), grn, overlap_stem, output_stride(16)",
    "tf_efficientnet_b0": "static_pad, kernel, in_chans(4)",
}
"""Every edit that changes what runs is in one of them."""


@pytest.fixture(params=COMBINED)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A model whose edits have learned something: offsets are not whole pixels, gates are not 1."""
    plain = testing.calibrate(timm.create_model(request.param.split()[0], num_classes=10))
    old = {name: parameter.shape for name, parameter in plain.named_parameters()}
    made = tbx.edit(plain, COMBINED[request.param])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if old.get(name) != parameter.shape:
                parameter += 0.05 * torch.randn_like(parameter)
    return testing.calibrate(made).eval()


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_output_stride_dilates_deformable_convs_too(name: str, stride: int) -> None:
    base = testing.calibrate(timm.create_model(name, output_stride=stride, num_classes=0)).double().eval()
    source = {"state_dict": base.state_dict(), "num_classes": 0}
    ours = timm.create_model(
        f"ext_{name}", edits="dcn", output_stride=stride, num_classes=0, pretrained=True, pretrained_cfg_overlay=source
    )
    ours.double().eval().load_state_dict({**ours.state_dict(), **base.state_dict()})
    x = testing.image(base, 64, 64)
    for got, expected in zip(testing.outputs(ours, x), testing.outputs(base, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("edits", ["dcn", "sac", "rep", "eca"])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_levels_subsampled_are_those_of_stride_32(edits: str, stride: int) -> None:
    plain = testing.calibrate(timm.create_model("ext_resnet18", edits=edits)).eval()
    dilated = timm.create_model("ext_resnet18", edits=edits, output_stride=stride).eval()
    dilated.load_state_dict(plain.state_dict())
    x = testing.image(plain, 64, 64)
    assert testing.largest(testing.outputs(dilated, x), testing.outputs(plain, x), sampling=True) <= 1e-4


@pytest.mark.parametrize("in_chans", [1, 4, 13])
@pytest.mark.parametrize(("name", "edits"), [("resnet18", "dcn"), ("convnext_atto", "kernel"), ("vgg11_bn", "rep")])
def test_in_chans_of_create_model_goes_with_edits(name: str, edits: str, in_chans: int) -> None:
    """More channels than RGB count nothing at first; one gives what the base gives for grey images."""
    rgb = testing.calibrate(testing.create(name, num_classes=10)).eval()
    source = {"state_dict": dict(rgb.state_dict()), "num_classes": 10}
    kwargs = {"in_chans": in_chans, "num_classes": 10, "pretrained": True, "pretrained_cfg_overlay": source}
    got = testing.create(f"ext_{name}", edits=edits, **kwargs).eval()
    x = testing.image(got, 40, 56)
    seen = x.expand(-1, 3, -1, -1) if in_chans == 1 else x[:, :3]
    assert testing.largest(testing.outputs(got, x), testing.outputs(rgb, seen)) <= 1e-4


@pytest.mark.parametrize("kwargs", [{"drop_path_rate": 0.2}, {"drop_rate": 0.5}, {"global_pool": "catavgmax"}])
def test_arguments_of_timms_classes_reach_them(kwargs: dict) -> None:
    made = timm.create_model("ext_resnet18", edits="dcn(stages=[4])", **kwargs, num_classes=3)
    plain = timm.create_model("resnet18", **kwargs, num_classes=3)
    assert str(made.global_pool) == str(plain.global_pool)
    assert str(made.layer4[1].drop_path) == str(plain.layer4[1].drop_path)
    assert made.drop_rate == plain.drop_rate
    assert made(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_reset_classifier_and_gradient_checkpointing(model: nn.Module) -> None:
    model.reset_classifier(4)
    model.set_grad_checkpointing()
    model.train()(testing.image(model, 160, 160, batch=2)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_autocast_to_bfloat16_stays_close(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    assert torch.cosine_similarity(got.float(), model(x)).min() > 0.9


def test_a_whole_model_in_bfloat16_runs(model: nn.Module) -> None:
    assert model.bfloat16()(testing.image(model, 64, 64)).dtype == torch.bfloat16


def test_torchscript_is_saved_and_loaded(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), model(x))


def test_channels_last_gives_the_same(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    expected = model(x)
    got = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_gives_the_same_in_torch_and_in_onnx_runtime(model: nn.Module, tmp_path: Path) -> None:
    """At opset 19, the first with deformable convs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    x = testing.image(model, 64, 64)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-4)
    torch.onnx.export(exported, (x,), tmp_path / "model.onnx", opset_version=19, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(x), rtol=1e-4, atol=1e-4)
