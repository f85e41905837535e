"""`timm-ext bench`: the function is kept, wrong contenders are left out. No test depends on a time."""

import json
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.apps.bench import contenders, measuring
from timm_backbones_ext.apps.bench.ceiling import ceiling
from timm_backbones_ext.apps.bench.contenders import Contender, Field
from timm_backbones_ext.catalog.description import describe
from timm_backbones_ext.cli.bench import _figures
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.deploy.measuring import Timing
from timm_backbones_ext.deploy.runtimes import find
from timm_backbones_ext.deploy.runtimes.onnxruntime import OnnxRuntime

SMALL = ["bench", "--models", "ext_test_resnet", "--size", "64", "--seconds", "0.1"]


def run(*args: str) -> str:
    """Standard output of a command that succeeds."""
    done = CliRunner().invoke(main, [*SMALL, *args])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_it_prints_a_table_and_writes_json_and_a_chart(tmp_path: Path) -> None:
    file, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    out = run("--against", "timm,onnxruntime", "--bfloat16", "--file", str(file), "--chart", str(chart))
    result = json.loads(file.read_text())
    cell = result["cells"]["ext_test_resnet 64"]
    rows = cell["contenders"]
    assert set(rows) == {"timm", "onnxruntime", "ours: eager", "ours: onnxruntime", "ours: eager in bfloat16"}
    assert all(row["error"] <= 1e-5 for row in rows.values() if row["dtype"] == "float32")
    assert 1e-4 < rows["ours: eager in bfloat16"]["error"] < 0.1
    low, high = rows["timm"]["spread"]
    assert (rows["timm"]["times_faster"], low, high) == (1, 1, 1)
    full = describe("test_resnet")  # at 160 px, with its classifier of 1,000 classes
    assert cell["gmacs"] == pytest.approx(full.gmacs * 64**2 / 160**2, rel=0.05)
    expected = 2 * cell["gmacs"] / (rows["timm"]["ms"] / 1e3) / result["machine"]["ceiling"]["float32"]
    assert rows["timm"]["share"] == pytest.approx(expected, rel=0.05)
    assert result["versions"]["timm-backbones-ext"] == tbx.__version__
    assert {"processor", "cores", "ceiling"} <= set(result["machine"])
    assert all(name in out for name in rows)
    drawn = ElementTree.parse(chart).getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"


def test_torchvisions_classifier_runs_with_the_same_weights(tmp_path: Path) -> None:
    model = testing.calibrate(timm.create_model("ext_resnet18", num_classes=10)).eval()
    field = Field(model, [torch.randn(1, 3, 64, 64)], tmp_path, 1)
    found = next(field.contenders(["torchvision"]))
    assert isinstance(found, Contender)
    assert found.error <= 1e-5
    maps = Field(tbx.wrap(model, "list").eval(), [torch.randn(1, 3, 64, 64)], tmp_path, 1)
    assert "torchvision: left out, torchvision's models give no feature maps" in next(maps.contenders(["torchvision"]))


class Wrong(OnnxRuntime):
    """Computes something else."""

    def load(self, folder: Path, options: object) -> object:
        run = super().load(folder, options)
        return lambda x: [1.001 * each for each in run(x)]


@pytest.mark.slow
def test_a_contender_that_computes_something_else_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "find", lambda name: Wrong() if name == "onnxruntime" else find(name))
    out = run("--against", "timm,onnxruntime,mnn")
    assert "onnxruntime: left out, onnxruntime changes the maps by 1.0e-03, relative" in out
    assert "ours: onnxruntime: left out" in out
    assert "mnn: left out, mnn converts the file of onnxruntime" in out or "not installed" in out
    assert "ours: eager\t" in out


def test_a_difference_that_is_smaller_than_the_spread_is_called_none() -> None:
    contender = Contender("onnxruntime", lambda x: [x], 1e-6)
    for spread, words in (((0.9, 1.2), "no difference"), ((1.05, 1.2), "1.10x")):
        timing = Timing(0.01, 0.009, 0.011, 1.1, spread, 9)
        assert words in _figures(measuring._row(contender, timing, 1.0, {"float32": 400.0}))


def test_a_contender_that_is_many_times_slower_is_not_measured_further() -> None:
    calls = {"timm": lambda: time.sleep(0.002), "slow": lambda: time.sleep(0.2), "quick": lambda: None}
    kept, words = measuring._quick(calls)
    assert set(kept) == {"timm", "quick"}
    assert len(words) == 1
    assert "slow: left out, about" in words[0]


def test_the_ceiling_holds_products_and_copies_and_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    found = ceiling(threads=1, seconds=0.01)
    assert torch.get_num_threads() == before
    assert {"float32", "copy"} <= set(found)
    assert all(np.isfinite(value) and value > 0 for value in found.values())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--against", "timm,tensorflow"], "unknown: 'tensorflow'; there is: timm, torchvision, onnxruntime"),
        (["--chart", "bench.gif"], "expected a chart that ends in .svg, .pdf or .png; got 'bench.gif'"),
        (["--file", "absent/bench.json"], "the folder 'absent' does not exist"),
        (["--models", "ext_nothere"], "ext_nothere"),
    ],
)
def test_wrong_use_is_an_error_before_anything_is_measured(args: list[str], words: str) -> None:
    done = CliRunner().invoke(main, [*SMALL, *args])
    assert done.exit_code == 2
    assert words in done.output
