"""Exported files in a repo: one commit with the weights, checked, replaced or deleted with them."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from huggingface_hub import HfApi, hf_hub_download

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

X = torch.randn(2, 3, 96, 64)
PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO computes in bfloat16 by default where the processor does."""


def made() -> torch.nn.Module:
    return testing.calibrate(timm.create_model("ext_test_resnet", edits="eca", num_classes=5)).eval()


def by_onnx(repo: str, revision: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(hf_hub_download(repo, "onnx/model.onnx", revision=revision))
    return session.run(None, {"image": X.numpy()})[0]


@pytest.mark.slow
def test_exported_files_compute_what_the_model_computes_and_go_with_its_weights(repo: str) -> None:
    import openvino

    model = made()
    commit = tbx.push_to_hub(model, repo, export=["onnx", "openvino"]).oid
    assert len(HfApi().list_repo_commits(repo)) == 2  # the first is the repo's own
    with torch.no_grad():
        expected = model(X).numpy()
    assert np.abs(by_onnx(repo, commit) - expected).max() < 1e-4
    hf_hub_download(repo, "openvino/openvino_model.bin")
    network = openvino.Core().compile_model(hf_hub_download(repo, "openvino/openvino_model.xml"), "CPU", PRECISE)
    assert np.abs(network([X.numpy()])[0] - expected).max() < 1e-4
    assert tbx.verify(repo).same
    sums = Path(hf_hub_download(repo, "SHA256SUMS")).read_text()
    assert all(name in sums for name in ("onnx/model.onnx", "openvino/openvino_model.bin"))
    with torch.no_grad():
        model.fc.bias.add_(1)
    plan = tbx.plan_push(model, repo, export=["onnx"])
    assert plan.stale == ("openvino/openvino_model.xml", "openvino/openvino_model.bin")
    again = tbx.push_to_hub(model, repo, export=["onnx"]).oid
    assert np.abs(by_onnx(repo, again) - (expected + 1)).max() < 1e-4
    assert not [name for name in HfApi().list_repo_files(repo) if name.startswith("openvino/")]


@pytest.mark.slow
def test_a_later_push_of_the_same_weights_leaves_exported_files_alone(repo: str) -> None:
    model = made()
    tbx.push_to_hub(model, repo, export=["onnx"])
    tbx.push_to_hub(model, repo, card={"datasets": ["digits"]})
    assert "onnx/model.onnx" in HfApi().list_repo_files(repo)


def test_an_export_that_fails_sends_nothing_and_makes_no_repo(repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cannot push the format 'tflite'; there is: onnx, openvino"):
        tbx.push_to_hub(made(), repo, export=["tflite"])
    monkeypatch.setattr("timm_backbones_ext.deploy.checking.Reference.error", lambda self, run: 1.0)
    with pytest.raises(tbx.BackboneError, match="the onnx file changes the maps by"):
        tbx.push_to_hub(made(), repo, export=["onnx"])
    assert not HfApi().repo_exists(repo)
