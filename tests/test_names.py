"""What a user types is a folder, a repo or the name of a model, by one rule."""

from pathlib import Path

import pytest
import timm

import timm_backbones_ext as tbx
from timm_backbones_ext import names


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("runs/model").mkdir(parents=True)
    Path("runs/weights").write_text("")
    Path("file").write_text("")
    return tmp_path


@pytest.mark.parametrize("source", ["runs/model", "./runs/model", "local-dir:runs/model", "runs", ".", Path("runs")])
def test_what_exists_as_a_folder_is_one(source: str | Path) -> None:
    found = names.find_source(source)
    assert isinstance(found, Path)
    assert found.is_dir()


def test_a_tilde_is_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    assert names.find_source("~/runs/model") == here / "runs" / "model"


@pytest.mark.parametrize("source", ["me/x", "hf-hub:me/x", "hf_hub:me/x", "timm/resnet50.a1_in1k"])
def test_owner_and_name_are_a_repo(source: str) -> None:
    assert names.find_source(source) == source.rpartition(":")[2]
    assert names.repo_id(source) == source.rpartition(":")[2]


def test_the_prefix_makes_a_repo_of_what_is_a_folder_too() -> None:
    assert names.find_source("hf-hub:runs/model") == "runs/model"
    assert names.find_source("hf-hub:me/x@v1") == "me/x@v1"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "runs/modle",
            r"no folder 'runs/modle' in the folder 'runs'; did you mean 'runs/model'\?; .* hf-hub:runs/modle",
        ),
        ("./x", "no folder 'x'"),
        ("../x", "no folder '../x'"),
        ("/nowhere/x", "no folder '/nowhere/x'"),
        ("~/nowhere", "no folder .*nowhere"),
        ("local-dir:x", "no folder 'x'"),
        (Path("me/x"), "no folder 'me/x'"),
        ("file", "file is a file; expected a folder"),
        ("runs/weights", "runs/weights is a file; expected a folder"),
        ("local-dir:file", "is a file; expected a folder"),
        ("resnet50", "no folder 'resnet50' is here; 'resnet50' is the name of a model; expected a repo"),
        ("ext_resnet50.a1_in1k", "is the name of a model"),
        ("rns", r"no folder 'rns' is here; did you mean 'runs'\?; 'rns' is not a valid repo id"),
        ("me/x/y", "not a valid repo id"),
        ("no spaces/x", "not a valid repo id"),
        ("", "not a valid repo id"),
        ("hf-hub:./x", "'hf-hub:./x' is a path"),
    ],
)
def test_what_is_neither_is_refused(source: str | Path, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        names.find_source(source)


@pytest.mark.parametrize("wrong", ["./runs/model", "file", "runs/weights", "resnet50", "local-dir:runs/model", "a b/c"])
def test_where_a_repo_is_expected_nothing_else_is_taken(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected a repo on the Hub, as owner/name"):
        names.repo_id(wrong)
    with pytest.raises(ValueError, match="expected a repo on the Hub, as owner/name"):
        tbx.pull(wrong)
    with pytest.raises(ValueError, match="expected a repo on the Hub, as owner/name"):
        tbx.push_to_hub("runs/model", wrong)


def test_verify_push_and_load_detector_refuse_a_misspelt_folder() -> None:
    for call in (tbx.verify, tbx.load_detector, lambda source: tbx.push_to_hub(source, "me/x")):
        with pytest.raises(FileNotFoundError, match=r"no folder 'runs/modle'.*did you mean 'runs/model'"):
            call("runs/modle")


def test_a_model_is_known_by_name_by_folder_and_by_repo(here: Path) -> None:
    (here / "runs" / "model" / "config.json").write_text("{}")
    assert names.known("resnet50.a1_in1k") == "resnet50.a1_in1k"
    assert names.known("runs/model") == "local-dir:runs/model"
    assert names.known("me/x") == "hf-hub:me/x"
    assert timm.models.parse_model_name("local-dir:runs/model")[0] == "local-dir"
    for wrong, message in (("resnet51", "did you mean"), ("runs", "holds no model: it has no config.json")):
        with pytest.raises(ValueError, match=message):
            names.known(wrong)
