"""The demo, with a short training."""

import json
from pathlib import Path

import pytest

from timm_backbones_ext.demo import run_demo


@pytest.mark.slow
def test_the_demo_extends_trains_shares_and_verifies(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    report = run_demo(out, epochs=4)
    assert report["features"] == [[64, 112, 112], [256, 56, 56], [512, 28, 28], [1024, 14, 14], [2048, 7, 7]]
    assert max(report["identity"].values()) < 1e-4
    assert report["verified"]
    assert report["pulled"]["right"] == report["digits"]["right"] > 0.5 * report["digits"]["of"]
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "ext_resnet50-features.png").stat().st_size > 100_000


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="no demo made it"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
