"""Runs of `train-detector`: what they write, how they go on, what they start from, what they refuse."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.detector.coco import CocoFolder, collate
from timm_backbones_ext.apps.detector.evaluate import evaluate
from timm_backbones_ext.apps.detector.saved import load_detector, read_design
from timm_backbones_ext.apps.detector.settings import DEFAULTS, settings_for
from timm_backbones_ext.apps.detector.train import train
from timm_backbones_ext.cli.main import main

SMALL: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "lr": 1e-3,
    "out_channels": 32,
    "num_convs": 1,
    "min_size": 48,
    "max_size": 48,
}


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def found(detector: nn.Module, folder: Path) -> list[Tensor]:
    with torch.inference_mode():
        (result,) = detector([CocoFolder(folder / "digits", "val")[0].image])
    return [result["boxes"], result["scores"], result["labels"]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    report = train(settings_for("digits:16", **SMALL), folder)
    assert report == json.loads((folder / "report.json").read_text())
    return folder


def test_a_run_writes_logs_a_picture_and_the_best_detector(trained: Path) -> None:
    rows = log(trained)
    losses, figures = [row for row in rows if row["loss"]], [row for row in rows if row["mAP"]]
    assert [int(row["step"]) for row in losses] == list(range(1, 13))
    assert [row["epoch"] for row in figures] == ["1", "2", "3"]
    assert float(losses[-1]["loss"]) < float(losses[0]["loss"])
    report = json.loads((trained / "report.json").read_text())
    assert report["best"]["mAP"] == max(float(row["mAP"]) for row in figures)
    with Image.open(trained / "detections.png") as picture:  # three scenes in a row, two lines of legend
        assert picture.size == (3 * 260 + 4, 264 + 2 * 18)
        legend = picture.crop((0, 264, 260, 300)).convert("RGB")
        colours = {colour for _, colour in legend.getcolors(1 << 16)}
    assert {(0, 255, 0), (255, 0, 0)} <= colours  # both boxes
    assert any(max(colour) < 64 for colour in colours)  # and dark words
    assert [file.name[:6] for file in (trained / "tensorboard").rglob("events*")] == ["events"]
    assert [file.name for file in (trained / "checkpoints").iterdir()] == ["epoch-0003"]


def test_the_best_detector_is_a_folder_that_timm_reads_as_a_backbone(trained: Path) -> None:
    detector = load_detector(trained / "best")
    maps = timm.create_model(f"local-dir:{trained / 'best'}", pretrained=True, features_only=True).eval()
    x = torch.rand(1, 3, 96, 96)
    body = detector.backbone.body(x)
    torch.testing.assert_close(maps(x)[2:4], body)
    assert read_design(trained / "best").classes == tuple("0123456789")
    assert tbx.verify(trained / "best").same
    card = (trained / "best" / "README.md").read_text()
    assert "base_model" not in card  # nothing published was used
    assert "load_detector" in card


def test_a_run_may_be_resumed_with_more_epochs_and_not_with_fewer(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    report = train(settings_for("digits:16", **{**SMALL, "epochs": 4}), folder, resume=True)
    assert report is not None
    assert (report["epoch"], report["step"]) == (4, 16)
    assert [row for row in log(folder) if int(row["step"]) <= 12] == log(trained)
    assert [row["epoch"] for row in log(folder) if row["mAP"]] == ["1", "2", "3", "4"]
    with pytest.raises(ValueError, match=r"began with other settings: epochs was 4 and is 3"):
        train(settings_for("digits:16", **SMALL), folder, resume=True)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_losses(trained: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from timm_backbones_ext.apps.detector.settings import settings_for; "
        "from timm_backbones_ext.apps.detector.train import train; "
        f"train(settings_for('digits:16', **{SMALL!r}), sys.argv[1], resume=True)"
    )
    folder, until = tmp_path / "run", time.monotonic() + 300
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    started = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=env)
    while not (folder / "log.csv").exists() or len(log(folder)) < 7:  # in the second epoch
        assert started.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (folder / "report.json").exists()
    train(settings_for("digits:16", **SMALL), folder, resume=True)
    assert log(folder) == log(trained)
    with pytest.raises(FileExistsError, match="holds a run already; resume it"):
        train(settings_for("digits:16", **SMALL), folder)
    with pytest.raises(ValueError, match=r"began with other settings: lr was 0.001 and is 0.1"):
        train(settings_for("digits:16", **{**SMALL, "lr": 0.1}), folder, resume=True)


def test_an_edited_backbone_starts_with_the_figures_of_the_detector_that_it_starts_from(
    trained: Path, tmp_path: Path
) -> None:
    best = trained / "best"
    edited = load_detector(best, design=replace(read_design(best), backbone="ext_resnet18_dcn"))
    assert any(hasattr(module, "conv_offset") for module in edited.modules())
    torch.testing.assert_close(found(edited, trained), found(load_detector(best), trained), rtol=1e-4, atol=1e-4)
    small = {**SMALL, "epochs": 1, "backbone": "ext_resnet18_dcn"}
    settings = settings_for("digits:16", **small, start=str(best))
    train(settings, tmp_path / "run")
    first = log(tmp_path / "run")[0]
    assert (first["step"], first["epoch"]) == ("0", "0")
    expected = json.loads((trained / "report.json").read_text())["best"]
    assert float(first["mAP"]) == pytest.approx(expected["mAP"], abs=1e-6)
    with pytest.raises(ValueError, match="does not fit: out_channels 32 there, 64 here"):
        train(replace(settings, out_channels=64), tmp_path / "other")


def test_a_detector_goes_to_the_hub_and_comes_back(trained: Path, local_hub: Any) -> None:
    pushed = CliRunner().invoke(main, ["push", str(trained / "best"), "me/digits-detector"])
    assert pushed.exit_code == 0, pushed.stderr
    again = load_detector("me/digits-detector")
    torch.testing.assert_close(found(again, trained), found(load_detector(trained / "best"), trained), rtol=0, atol=0)
    assert (tbx.pull("me/digits-detector") / "detector.safetensors").is_file()
    timm.create_model("hf-hub:me/digits-detector", pretrained=True, features_only=True)


def test_the_command_trains_pushes_and_says_what_came_out(tmp_path: Path, local_hub: Any) -> None:
    small = {"--epochs": 1, "--batch-size": 4, "--out-channels": 32, "--num-convs": 1, "--min-size": 32}
    arguments = ["--data", "digits:8", *(str(word) for pair in small.items() for word in pair), "--max-size", "32"]
    command = ["train-detector", *arguments, "--output", str(tmp_path / "run"), "--push", "me/from-command"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    assert "step 2/2\tepoch 1/1, loss" in result.stdout
    assert "pushed me/from-command@" in result.stdout
    assert load_detector("me/from-command").backbone.out_channels == 32
    again = CliRunner().invoke(main, ["train-detector", *arguments, "--output", str(tmp_path / "run")])
    assert again.exit_code == 2
    assert "holds a run already; resume it" in again.stderr
    resumed = CliRunner().invoke(main, [*command, "--resume", "--epochs", "2", "--json"])
    assert resumed.exit_code == 0, resumed.stderr
    said = json.loads(resumed.stdout)
    assert (said["epoch"], said["folder"], said["repo"]) == (2, str(tmp_path / "run"), "me/from-command")
    assert said["commit"]
    assert "step 2/2\tepoch 2/2, loss" in resumed.stderr


def test_the_help_says_the_defaults_for_both_kinds_of_data() -> None:
    said = " ".join(CliRunner().invoke(main, ["train-detector", "--help"]).stdout.split())
    digits, coco = DEFAULTS["digits"], DEFAULTS["coco"]
    assert f"Passes over the images. [default: {digits.epochs} (coco: {coco.epochs}); x>=1]" in said
    assert f"norms and biases. [default: {digits.weight_decay}]" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "ext_resnet19"], "did you mean"),
        (["--data", "voc"], "expected digits, digits:SCENES or coco:ROOT; got 'voc'"),
        (["--data", "coco:nowhere"], "nowhere has no annotations for 'train'"),
        (["--levels", "P3-P9"], "stride of the last one can be"),
        (["--data", "digits:4"], "4 images are fewer than one batch of 8"),
        (["--lr", "0"], "lr: expected a number above 0; got 0"),
        (["--start", "somewhere", "--pretrained"], "choose one"),
        (["--start", "./nowhere"], "no folder 'nowhere'"),
        (["--start", "."], "holds no detector: it lacks config.json"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in arguments else ["--data", "digits:8"]
    result = CliRunner().invoke(main, ["train-detector", *data, *arguments, "--output", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run" / "settings.json").exists()  # the folder can be used again


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(tbx.BackboneError, match=r"step \d+: the loss is not finite"):
        train(settings_for("digits:8", **{**SMALL, "lr": 1e30, "epochs": 30}), tmp_path / "run")


def test_unreadable_images_are_counted_and_more_than_one_in_a_hundred_end_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = settings_for("digits:100", epochs=1, batch_size=50, min_size=32, max_size=32, out_channels=32, num_convs=1)
    from timm_backbones_ext.apps.detector.digits import write_digits

    write_digits(folder / "digits", train=100, val=20)
    (folder / "digits" / "train" / "00003.png").write_bytes(b"not an image")
    report = train(small, folder)
    assert report is not None
    assert [text.partition(" ")[0] for text in report["unreadable"]] == ["00003.png"]
    for file in (folder / "digits" / "train").iterdir():
        file.write_bytes(b"not an image") if file.name < "00002" else None
    with pytest.raises(ValueError, match=r"more than 1% of 120 images cannot be read: 0000"):
        train(replace(small, data=f"coco:{folder / 'digits'}"), tmp_path / "other")


class Oracle(nn.Module):
    """Finds what the data says, moved by a number of pixels."""

    def __init__(self, targets: list[dict[str, Tensor]], shift: float) -> None:
        super().__init__()
        self.targets, self.shift = iter(targets), shift

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = [next(self.targets) for _ in images]
        return [
            {"boxes": v["boxes"] + self.shift, "labels": v["labels"], "scores": torch.ones(len(v["labels"]))}
            for v in found
        ]


def test_figures_are_one_for_what_the_data_says_and_fall_with_the_overlap(trained: Path) -> None:
    from accelerate import Accelerator

    data = CocoFolder(trained / "digits", "train")
    targets = [data[i].target for i in range(len(data))]
    batches = [collate([data[i] for i in range(first, first + 4)]) for first in range(0, 16, 4)]
    batches.append(collate([data[0]]))  # an image that is seen twice counts once
    exact, moved = (evaluate(Accelerator(cpu=True), Oracle([*targets, targets[0]], shift), batches) for shift in (0, 1))
    assert exact == {"mAP": pytest.approx(1), "mAP_50": pytest.approx(1), "mAP_75": pytest.approx(1)}
    assert moved is not None
    assert 0.5 < moved["mAP"] < 0.9 < moved["mAP_50"]
