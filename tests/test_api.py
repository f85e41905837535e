"""What timm and torch can do with a model works on ours, beyond what timm's own suite asks."""

import io

import pytest
import timm
import torch
from torch import nn

from timm_backbones_ext import testing

DCN = {"edits": "dcn(stages=[4])"}


@pytest.fixture
def model() -> nn.Module:
    made = testing.calibrate(timm.create_model("ext_resnet18", **DCN, num_classes=10))
    for name, parameter in made.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(parameter, std=0.05)  # a trained one: offsets are not whole pixels
    return made.eval()


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


def test_dilated_levels_subsampled_are_those_of_stride_32() -> None:
    plain = testing.calibrate(timm.create_model("ext_resnet18", edits="dcn")).eval()
    dilated = timm.create_model("ext_resnet18", edits="dcn", output_stride=8).eval()
    dilated.load_state_dict(plain.state_dict())
    x = testing.image(plain, 64, 64)
    torch.testing.assert_close(testing.outputs(dilated, x)[3][..., ::2, ::2], testing.outputs(plain, x)[3])


@pytest.mark.parametrize("kwargs", [{"drop_path_rate": 0.2}, {"drop_rate": 0.5}, {"global_pool": "catavgmax"}])
def test_arguments_of_timms_classes_reach_them(kwargs: dict) -> None:
    made = timm.create_model("ext_resnet18", **DCN, **kwargs, num_classes=3)
    plain = timm.create_model("resnet18", **kwargs, num_classes=3)
    assert str(made.global_pool) == str(plain.global_pool)
    assert str(made.layer4[1].drop_path) == str(plain.layer4[1].drop_path)
    assert made.drop_rate == plain.drop_rate
    assert made(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_reset_classifier_and_gradient_checkpointing(model: nn.Module) -> None:
    model.reset_classifier(4)
    model.set_grad_checkpointing()
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_autocast_to_bfloat16_stays_close(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), model(x), rtol=0.1, atol=0.1)


def test_a_whole_model_in_bfloat16_runs(model: nn.Module) -> None:
    assert model.bfloat16()(torch.randn(1, 3, 64, 64).bfloat16()).dtype == torch.bfloat16


def test_torchscript_is_saved_and_loaded(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), model(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_gives_the_same(model: nn.Module) -> None:
    x = testing.image(model, 64, 64)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_gives_the_same_at_opset_19(model: nn.Module, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x = testing.image(model, 64, 64)
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", opset_version=19, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(x), rtol=1e-4, atol=1e-4)
