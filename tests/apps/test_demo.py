"""The demo, with a short training."""

import json
import math
from pathlib import Path

import pytest

from timm_backbones_ext.apps.demo import DemoError, fresh_folder, require_promises, run_demo


@pytest.mark.slow
def test_the_demo_extends_trains_shares_and_verifies(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    report = run_demo(out, epochs=2)
    assert report["features"] == [[64, 112, 112], [256, 56, 56], [512, 28, 28], [1024, 14, 14], [2048, 7, 7]]
    assert max(report["identity"].values()) < 1e-4
    assert report["verified"]
    assert report["largest"] < 1e-4
    assert report["pulled"]["right"] == report["digits"]["right"] > 0.2 * report["digits"]["of"]  # chance is 0.1
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "ext_resnet50-features.png").stat().st_size > 100_000


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="no demo made it"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("theirs", ['{"accuracy": 0.9}', "[]", "not json", '{"made_by": "somebody else"}'])
def test_a_report_of_somebody_elses_does_not_make_a_folder_ours(tmp_path: Path, theirs: str) -> None:
    (tmp_path / "report.json").write_text(theirs)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="no demo made it"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "report.json").read_text() == theirs


def test_a_file_or_link_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    earlier = tmp_path / "earlier"
    fresh_folder(earlier)
    (tmp_path / "link").symlink_to(earlier)
    for name in ("file", "link"):
        with pytest.raises(FileExistsError, match="no demo made it"):
            fresh_folder(tmp_path / name)
    assert (earlier / "report.json").exists()


def test_an_earlier_demo_is_replaced_even_one_that_broke_off(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    fresh_folder(out)
    (out / "photo.png").write_text("left over")
    fresh_folder(out)
    assert [file.name for file in out.iterdir()] == ["report.json"]


def test_a_demo_whose_promises_are_broken_fails() -> None:
    kept = {"identity": {"logits": 1e-6}, "digits": {"right": 9}, "pulled": {"right": 9}, "verified": True}
    require_promises(kept)
    for broken in ({"identity": {"logits": 0.1}}, {"identity": {"logits": math.nan}}, {"pulled": {"right": 8}}):
        with pytest.raises(DemoError):
            require_promises(kept | broken)
    with pytest.raises(DemoError):
        require_promises(kept | {"verified": False})
