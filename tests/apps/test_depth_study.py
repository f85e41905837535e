"""The depth study: what it trains, what it writes, and what the committed run shows."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from click.testing import CliRunner

from timm_backbones_ext.apps import depth_study
from timm_backbones_ext.apps.depth_study import KINDS, run_study, steps, summary
from timm_backbones_ext.apps.digits import Digits, digits
from timm_backbones_ext.cli.main import main

ROOT = Path(__file__).parents[2]
_SPEC = spec_from_file_location("depth_benchmark", ROOT / "benchmarks" / "depth.py")
BENCHMARK = module_from_spec(_SPEC)
_SPEC.loader.exec_module(BENCHMARK)
failures, page = BENCHMARK.failures, BENCHMARK.page
MEASURED = json.loads((ROOT / "benchmarks" / "depth.json").read_text(encoding="utf-8"))


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 digits to train on, and 64 to test on."""
    parts = [Digits(part.images[:size], part.labels[:size]) for part, size in zip(digits(), (128, 64), strict=True)]
    monkeypatch.setattr(depth_study, "digits", lambda: parts)


@pytest.mark.slow
def test_a_study_trains_both_kinds_and_writes_json_and_a_figure(tmp_path: Path) -> None:
    said: list[str] = []
    result = run_study(tmp_path / "study", depths=(20,), seeds=1, epochs=2, step=said.append)
    assert [run["kind"] for run in result["runs"]] == list(KINDS)
    assert json.loads((tmp_path / "study" / "depth.json").read_text()) == result
    assert (tmp_path / "study" / "depth.png").read_bytes()[:4] == b"\x89PNG"
    assert len(said) == steps((20,), 1, 2) == 4
    plain, residual = result["runs"]
    assert residual["train_accuracy"] > 0.5
    assert plain["gradient"] > residual["gradient"] > 0
    assert result["train_digits"] + result["test_digits"] == 1797


def test_the_deepest_net_has_no_plain_twin() -> None:
    assert steps((110,), 1, 1) == 2
    assert steps((1202,), 1, 1) == 1


def test_a_depth_without_a_net_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no net of 21 layers; there are 20, 32, 44, 56, 110, 1202"):
        run_study(tmp_path, depths=(20, 21))
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_finite_is_said_to_be() -> None:
    runs = [{**run, "loss": None} if run["seed"] == 0 else run for run in MEASURED["runs"]]
    row = summary({**MEASURED, "runs": runs})[0]
    assert row["loss"] is None
    assert row["gradient"]["min"] <= row["gradient"]["mean"] <= row["gradient"]["max"]
    assert "not finite" in page({**MEASURED, "runs": runs})


def test_the_committed_study_shows_what_the_paper_found() -> None:
    assert MEASURED["settings"]["seeds"] == 3
    assert failures(MEASURED) == []


@pytest.mark.parametrize(
    ("kind", "depth", "change"),
    [
        ("plainnet", 110, {"train_accuracy": 0.21}),
        ("plainnet", 56, {"train_accuracy": 0.5}),
        ("resnet", 56, {"train_accuracy": 0.99}),
        ("resnet", 110, {"train_accuracy": 0.7}),
        ("resnet", 110, {"gradient": 1e3}),
    ],
)
def test_a_study_that_shows_something_else_is_named(kind: str, depth: int, change: dict) -> None:
    runs = [
        {**run, **change} if (run["kind"], run["depth"], run["seed"]) == (kind, depth, 2) else run
        for run in MEASURED["runs"]
    ]
    (wrong,) = failures({**MEASURED, "runs": runs})
    assert "seed 2" in wrong


def test_the_page_is_made_from_the_committed_study() -> None:
    assert (ROOT / "docs" / "concepts" / "depth.md").read_text(encoding="utf-8") == page(MEASURED)


@pytest.mark.usefixtures("_few")
def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    options = ["--depths", "20", "--seeds", "1", "--epochs", "1", "--output", str(tmp_path / "study")]
    shown = CliRunner().invoke(main, ["depth-study", *options])
    assert shown.exit_code == 0, shown.stderr
    assert "epoch 2/2\tresnet20 seed 0: loss" in shown.stdout
    assert "net\tlayers\ttrain loss" in shown.stdout
    said = json.loads(CliRunner().invoke(main, ["depth-study", *options, "--json"]).stdout)
    assert [row["kind"] for row in said["summary"]] == list(KINDS)
    wrong = CliRunner().invoke(main, ["depth-study", "--depths", "20;32"])
    assert wrong.exit_code == 2
    assert "numbers with commas" in wrong.stderr
    unknown = CliRunner().invoke(main, ["depth-study", "--depths", "18"])
    assert unknown.exit_code == 2
    assert "there are 20, 32" in unknown.stderr
