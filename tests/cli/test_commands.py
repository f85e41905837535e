"""`timm-ext` as users and scripts call it: what it prints, where, and its exit status."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner, Result
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file

import timm_backbones_ext as tbx
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.cli.words import as_typed
from timm_backbones_ext.families import FAMILIES
from timm_backbones_ext.registry import BUILT_IN

Terminal = Callable[[list[str]], str]


def call(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def output(*args: str) -> str:
    result = call(*args)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tbx.save(timm.create_model("ext_resnet18", num_classes=3), tmp_path_factory.mktemp("saved") / "model")


def test_list_shows_every_variant() -> None:
    header, *found = rows(output("list"))
    assert header == ["name", "base", "edits", "tags", "licences"]
    assert [row[0] for row in found] == list(tbx.VARIANTS)
    assert len(json.loads(output("list", "--json"))) == len(tbx.VARIANTS)


def test_list_filters_by_edit_family_and_licence() -> None:
    assert {row[0] for row in rows(output("list", "--edit", "dcn"))[1:]} >= {"ext_resnet50_dcn", "ext_resnet101_dcn"}
    assert "ext_resnet50" not in {row[0] for row in rows(output("list", "--edit", "dcn"))}
    families = {name: {row[1] for row in rows(output("list", "--family", name))[1:]} for name in FAMILIES}
    assert all(item.smallest in families[name] for name, item in FAMILIES.items())
    assert sum(map(len, families.values())) == len({variant.base for variant in tbx.VARIANTS.values()})
    assert {row[0] for row in rows(output("list", "--license", "cc-by-nc-4.0"))[1:]} >= {"ext_resnet18", "ext_resnet50"}


def test_info_agrees_with_the_model() -> None:
    said = json.loads(output("info", "ext_resnet50_dcn", "--json"))
    model = timm.create_model("ext_resnet50_dcn")
    assert said["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert [level["channels"] for level in said["levels"]] == [64, 256, 512, 1024, 2048]
    assert said["tags"]["a1_in1k"] == "apache-2.0"
    assert said["edits"][0]["exact"] == "eval+train"
    base = json.loads(output("info", "ext_resnet50", "--json"))
    assert base["gmacs"] == pytest.approx(4.089, abs=1e-3)  # 4.1 GMACs in the timm results for resnet50
    assert base["gmacs"] < said["gmacs"] < 1.1 * base["gmacs"]
    assert "deformable" not in output("info", "ext_resnet50")


def test_edits_are_listed_with_costs_exactness_and_evidence() -> None:
    found = {item["name"]: item for item in json.loads(output("edits", "--json"))}
    assert found.keys() == tbx.EDITS.keys()
    assert found["dcn"]["exact"] == "eval+train"
    assert "37.4 -> 41.3" in found["dcn"]["evidence"]
    assert found["dcn"]["base"] == "resnet50"
    assert found["dcn"]["params"] == sum(
        p.numel() for name, p in timm.create_model("ext_resnet50_dcn").named_parameters() if "conv_offset" in name
    )
    assert 0 < found["dcn"]["gmacs"] < 0.5
    assert all(item["time_ratio"] > 0 for item in found.values())
    assert [name for name, item in found.items() if item["merges"]] == ["dilated_reparam", "lora", "rep"]
    assert "37.4 -> 41.3" in output("edits", "dcn")


@pytest.mark.slow
def test_edits_are_listed_for_a_family_and_for_a_base() -> None:
    assert "dcn" not in output("edits", "--family", "convnext")
    costs, evidence = output("edits", "--base", "tf_efficientnet_b0").split("\n\n")
    named = {row[0]: row[1] for row in rows(costs)[1:]}
    assert len(rows(evidence)) == len(rows(costs))
    assert named["static_pad"] == "tf_efficientnet_b0"
    assert "static_pad" not in output("edits", "--base", "efficientnet_b0")


def test_features_draws_a_picture_and_replaces_it_only_when_asked(tmp_path: Path) -> None:
    photo, picture = tmp_path / "photo.png", tmp_path / "maps.png"
    Image.radial_gradient("L").convert("RGB").save(photo)
    command = ["features", "ext_resnet18", "--image", str(photo), "--size", "64", "--output", str(picture)]
    said = json.loads(output(*command, "--json"))
    assert [level["size"] for level in said["levels"]] == ["32x32", "16x16", "8x8", "4x4", "2x2"]
    with Image.open(picture) as drawn:
        assert drawn.width > 800
    before = picture.read_bytes()
    again = call(*command)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert picture.read_bytes() == before
    output(*command, "--overwrite")


def test_a_picture_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("no picture")
    result = call(
        "features", "ext_resnet18", "--image", str(tmp_path / "photo.png"), "--output", str(tmp_path / "x.png")
    )
    assert result.exit_code == 2
    assert "not a picture that can be read" in result.stderr
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["info", "ext_resnet51"], "did you mean ext_resnet50"),
        (["info", "ext_resnet18", "--edits", "dnc"], "did you mean 'dcn'"),
        (["save", "ext_resnet18", "here", "--edits", "dcn(stages=[9])"], "stages must be"),
        (["verify", "local-dir:absent"], "no folder 'absent'"),
        (["verify", "."], "nothing to verify"),
        (["push", ".", "me/x", "--pretrained"], "is a saved folder"),
        (["info", "ext_resnet18.a1_in2k"], "did you mean 'a1_in1k'"),
        (["info", "resnet18", "--edits", "dcn"], "does not take edits; ext_resnet18 does"),
        (["list", "--family", "resnets"], "did you mean 'resnet'"),
        (["run", "absent.py"], "no script"),
        (["hub", "serve", "root", "--host", "0.0.0.0"], "needs --allow-remote"),
        (["hub", "fsck", "."], "holds no local Hub"),
        (["pull", "no spaces"], "'no spaces' is not a valid repo id; expected a repo on the Hub, as owner/name"),
        (["pull", "resnet50"], "'resnet50' is the name of a model; expected a repo"),
        (["pull", "runs/file"], "'runs/file' is a path; expected a repo"),
        (["push", "resnet18", "me"], "'me' is not a valid repo id"),
        (["lock", "add", "./x"], "'./x' is a path"),
        (["verify", "runs/modle"], "no folder 'runs/modle' in the folder 'runs'; did you mean 'runs/model'?"),
        (["push", "rnus/model", "me/x"], "no folder 'rnus/model'"),
        (["verify", "runs/file"], "runs/file is a file"),
        (["verify", "resnet50"], "'resnet50' is the name of a model"),
        (["verify", "runs/model", "--revision", "v1"], "leave out --revision"),
        (["info", "runs/model"], "holds no model: it has no config.json"),
        (["features", "resnet18", "--image", "runs/file", "--output", "x.jpg"], "ends in .png, .svg, .pdf"),
        (["features", "resnet18", "--image", "runs/file", "--output", "no/x.png"], "the folder 'no' does not exist"),
        (["run", "-m", "nothere"], "no module 'nothere'"),
        (["run", "-m", "nothere.deeper"], "no module 'nothere.deeper'"),
        (["hub", "serve", "root", "--tokens", "absent"], "does not exist"),
        (["list", "--edit", "dnc"], "dnc"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(args: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["timm-ext"])
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("runs/model").mkdir(parents=True)
    Path("runs/file").write_text("")
    result = call(*args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.usefixtures("local_hub")
def test_push_pull_and_verify_work_together(folder: Path) -> None:
    pushed = json.loads(output("push", str(folder), "me/from-the-shell", "--json"))
    pulled = output("pull", "me/from-the-shell", "--revision", pushed["commit"]).strip()
    assert Path(pulled, "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    said = json.loads(output("verify", "me/from-the-shell", "--json"))
    assert said["same"]
    assert said["levels"].keys() == {*(f"level {i}" for i in range(5)), "logits"}


def test_push_makes_branches_pull_requests_tags_and_private_gated_repos(folder: Path, local_hub: Any) -> None:
    def push(*args: str) -> dict:
        return json.loads(output("push", str(folder), repo, *args, "--json"))

    api, repo = HfApi(), "me/all-options"
    local_hub.faults({"kind": "taken", "where": "/settings"})
    first = push("--private", "--gated", "manual", "--tag", "v1")["commit"]
    assert '{"gated":"manual"}' in [seen[-1] for seen in local_hub.faults()]
    info = api.model_info(repo, revision="v1")
    assert (info.sha, info.private) == (first, True)
    api.delete_file("README.md", repo)
    branch = push("--branch", "dev")["commit"]
    assert api.repo_info(repo, revision="dev").sha == branch
    proposed = push("--pr")
    assert proposed["pull_request"].endswith("/discussions/1")
    assert not api.file_exists(repo, "README.md")
    assert api.file_exists(repo, "README.md", revision="refs/pr/1")


@pytest.mark.usefixtures("local_hub")
def test_a_failed_check_is_status_1() -> None:
    result = call("pull", "me/absent")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: me/absent@main: no such repo")


def test_a_folder_that_computes_something_else_is_status_1(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tbx.save(timm.create_model("ext_resnet18", num_classes=3), tmp_path / "other")
    (other / "fingerprint.safetensors").write_bytes((folder / "fingerprint.safetensors").read_bytes())
    result = call("verify", str(other))
    assert result.exit_code == 1
    assert "different: first at conv1" in result.stdout


def test_save_makes_a_folder_that_timm_reads(tmp_path: Path) -> None:
    output("save", "ext_resnet18", str(tmp_path / "out"), "--edits", "frozen_bn")
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).edits == ("frozen_bn",)
    output("save", str(tmp_path / "out"), str(tmp_path / "edited"), "--edits", "eca")
    states = [load_file(tmp_path / name / "model.safetensors") for name in ("out", "edited")]
    assert all(value.equal(states[1][key]) for key, value in states[0].items())  # a folder comes with its weights
    again = call("save", "ext_resnet18", str(tmp_path / "out"))
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert "=True" not in again.stderr


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "timm_backbones_ext.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"timm-ext, version {tbx.__version__}"


SCRIPT = "import sys, timm; print(sys.argv[1:], timm.is_model('ext_resnet18')); raise ValueError('of the script')"


@pytest.mark.slow
def test_a_script_gets_its_arguments_and_its_error_has_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "timm_backbones_ext.cli", "run", str(tmp_path / "script.py"), "--help", "-x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.strip() == "['--help', '-x'] True"
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith("ValueError: of the script")
    files = re.findall(r'File "(.*)", line', done.stderr)
    assert files == [str(tmp_path / "script.py")]  # no frames of ours


def test_chosen_levels_are_shown_in_the_order_asked_for(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.radial_gradient("L").convert("RGB").save(photo)
    command = ["features", "ext_resnet18", "--image", str(photo), "--size", "64", "--output", str(tmp_path / "x.png")]
    assert [row[0] for row in rows(output(*command, "--levels", "4,1"))[1:]] == ["4", "1"]
    for wrong, message in (("9", "no level 9; there are 0, 1, 2, 3, 4"), ("a", "expected numbers")):
        result = call(*command, "--overwrite", "--levels", wrong)
        assert result.exit_code == 2
        assert message in result.stderr


def test_piped_output_is_plain_text() -> None:
    for args in (["list"], ["info", "ext_resnet50_dcn"], ["edits"]):
        text = output(*args)
        assert text.isascii()
        assert "\x1b" not in text


def test_damaged_weights_are_status_1(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    result = call("verify", str(damaged))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_a_saved_folder_is_described_as_its_model_is(folder: Path) -> None:
    said, expected = (json.loads(output("info", name, "--json")) for name in (str(folder), "ext_resnet18"))
    assert said["name"] == str(folder)
    assert said["levels"] == expected["levels"]
    assert said["params"] == expected["params"] - 997 * 513  # 3 classes instead of 1000


@pytest.mark.usefixtures("local_hub")
def test_what_is_no_folder_is_said_before_the_hub_is_asked() -> None:
    result = call("verify", "me/absent")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "no folder 'me/absent' is here; asking the Hub for the repo me/absent"


def test_a_hub_that_does_not_answer_is_not_waited_for_in_silence(local_hub: Any) -> None:
    local_hub.faults({"kind": "reset", "where": "silent", "times": 1})
    result = call("pull", "me/silent")
    local_hub.faults()
    assert result.exit_code == 1
    assert re.search(r"no answer from the Hub \(\w+\), trying again in [\d.]+ s \(attempt 2 of 6\)", result.stderr)


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("holds a vgg, and this is a resnet; force=True replaces it", "...; --force replaces it"),
        ("Push it without as_timm", "Push it without --as timm"),
        ("choose a smaller batch_size", "choose a smaller --batch-size"),
        ("runs/batch_size/x is no file", None),
        ("model_as_timm is no option", None),
        ("timm.create_model('x', force=False)", None),
    ],
)
def test_messages_name_options_and_not_arguments_of_python(message: str, typed: str | None) -> None:
    said = as_typed(message, main)
    assert said == message if typed is None else said.endswith(typed.removeprefix("..."))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str) -> None:
    assert f"_TIMM_EXT_COMPLETE={shell}_complete" in output("completion", shell)


LIST = """
import os, sys
from timm_backbones_ext.cli import main
for columns in sys.argv[1:]:
    os.environ["COLUMNS"] = columns
    main(["list"], standalone_mode=False)
    print("=====")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_list_fits_terminals_of_40_and_80_columns_and_breaks_no_name(terminal: Terminal) -> None:
    narrow, wide, _ = terminal(["-c", LIST, "40", "80"]).split("=====\n")
    for columns, text in ((40, narrow), (80, wide)):
        assert max(map(len, text.splitlines())) <= columns
        assert set(text.split()) >= BUILT_IN
        assert "cc-by-nc-4.0" in text
        assert "dcn" in text
    assert re.search(r"ext_resnet50_dcn +resnet50 \+ dcn +\d+ +apache-2.0, 3 more", wide)
    assert re.search(r"ext_resnet50_dcn\n  base \+ edits: resnet50 \+ dcn;\s+tags: \d+;\s+licences: ", narrow)
