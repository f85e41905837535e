"""export: files that other programs read, with the facts of the model, checked before they appear."""

import json
import resource
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small import maps_model
from torch import Tensor, nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli import main
from timm_backbones_ext.deploy import exporting
from timm_backbones_ext.deploy.exported import Plain

EXAMPLE = torch.zeros(1, 3, 64, 64)
SUFFIXES = {
    "onnx": ["onnx"],
    "xml": ["bin", "xml"],
    "ncnn.param": ["ncnn.bin", "ncnn.json", "ncnn.param"],
    "pt2": ["pt2"],
}


def facts_in(file: Path) -> dict:
    """The facts in a file, by the library that reads it."""
    if file.suffix == ".onnx":
        import onnx

        return {p.key: p.value for p in onnx.load(file, load_external_data=False).metadata_props}
    if file.suffix == ".xml":
        import openvino

        info = openvino.Core().read_model(file).get_rt_info(["timm_backbones_ext"]).value
        return {key: getattr(value, "value", value) for key, value in info.items()}
    if file.suffix == ".pt2":
        with zipfile.ZipFile(file) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("facts.json")]
            return json.loads(archive.read(name))
    return json.loads(file.with_suffix(".json").read_text())


@pytest.mark.parametrize("suffix", list(SUFFIXES))
def test_an_exported_file_holds_the_facts_and_was_run(suffix: str, tmp_path: Path) -> None:
    files = tbx.export(maps_model(), tmp_path / f"net.{suffix}", EXAMPLE)
    assert sorted(file.name for file in files) == [f"net.{each}" for each in SUFFIXES[suffix]]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    facts = facts_in(tmp_path / f"net.{suffix}")
    assert facts["architecture"] == "ext_test_resnet"
    assert facts["digest"] == tbx.fingerprint(maps_model()).digest
    assert {"levels", "image", "base", "edits", "license", "outputs"} <= set(facts)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module) -> Plain:
        plain = plain_graph(model)
        with torch.no_grad():
            next(plain.graph.parameters()).mul_(1.01)
        return plain

    plain_graph = exporting.plain_graph
    monkeypatch.setattr(exporting, "plain_graph", wrong)
    with pytest.raises(tbx.BackboneError, match=r"changes the maps by \d\.\de-0[23].*Nothing was written"):
        tbx.export(maps_model(), tmp_path / "net.ncnn.param", EXAMPLE)
    assert not any(tmp_path.iterdir())


class Odd(nn.Module):
    """An activation that no other runtime has."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["xml", "ncnn.param"])
def test_an_operator_without_mapping_is_named(suffix: str, tmp_path: Path) -> None:
    model = testing.trained("test_resnet", num_classes=10)
    model.layer4[0].act1 = Odd()
    with pytest.raises(tbx.BackboneError, match=r"special_bessel_j0|special\.bessel_j0"):
        tbx.export(model.eval(), tmp_path / f"net.{suffix}", EXAMPLE)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_the_system_and_leaves_no_file(tmp_path: Path, deployed) -> None:
    model, net = maps_model(), tbx.deploy.load(deployed("ncnn"))
    old, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        for suffix in SUFFIXES:
            with pytest.raises(OSError, match=r"too large|cannot write to"):
                tbx.export(model, tmp_path / f"net.{suffix}", EXAMPLE)
        with pytest.raises(OSError, match="too large"):
            net.save(tmp_path / "net")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not any(tmp_path.iterdir())


def test_wrong_arguments_are_errors(tmp_path: Path) -> None:
    model = maps_model()
    with pytest.raises(ValueError, match=r"ends in \.onnx, \.pt2, \.xml, \.param; got 'net\.tflite'"):
        tbx.export(model, tmp_path / "net.tflite")
    with pytest.raises(ValueError, match="opset 19 or newer, since DeformConv exists since then; got 18"):
        tbx.export(model, tmp_path / "net.onnx", opset=18)
    (tmp_path / "net.ncnn.bin").touch()
    with pytest.raises(FileExistsError, match="overwrite it"):
        tbx.export(model, tmp_path / "net.ncnn.param", EXAMPLE)
    assert [file.name for file in tmp_path.iterdir()] == ["net.ncnn.bin"]


@pytest.mark.slow
def test_the_commands_deploy_and_export_a_saved_folder(tmp_path: Path) -> None:
    tbx.save(testing.trained("ext_test_resnet", num_classes=10), tmp_path / "saved")
    saved, run = str(tmp_path / "saved"), CliRunner().invoke
    done = run(main, ["deploy", saved, str(tmp_path / "net"), "--runtime", "ncnn", "--levels", "1,2"])
    assert done.exit_code == 0, done.output
    assert "ncnn" in done.output
    assert len(tbx.deploy.load(tmp_path / "net")(EXAMPLE)) == 2
    done = run(main, ["export", saved, str(tmp_path / "net.ncnn.param"), "--static"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "net.ncnn.bin").is_file()
    done = run(main, ["deploy", saved, str(tmp_path / "net"), "--runtime", "ncnn"])
    assert (done.exit_code, "--overwrite" in done.output) == (2, True)
