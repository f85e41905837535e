"""The study of edits: its images, its starts, what it writes, and the page made from it."""

import copy
import gzip
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.apps.candidates import CANDIDATES, PEFT, PLAIN, trained_net
from timm_backbones_ext.apps.edit_study import Settings, run_edit_study, runs, step_times, summary
from timm_backbones_ext.apps.images import digit_scenes, read_images
from timm_backbones_ext.apps.usual import USUAL, edit_usually
from timm_backbones_ext.catalog.measured import STUDY, measured
from timm_backbones_ext.cli.main import main

ROOT = Path(__file__).parents[2]
_SPEC = spec_from_file_location("edit_study_benchmark", ROOT / "benchmarks" / "edit_study.py")
BENCHMARK = module_from_spec(_SPEC)
_SPEC.loader.exec_module(BENCHMARK)
MEASURED = json.loads(STUDY.read_text(encoding="utf-8"))
INSERTION = json.loads((ROOT / "benchmarks" / "insertion.json").read_text(encoding="utf-8"))
BASES = {"kernel": ("test_convnext", "kernel(size=9)"), "dilated_reparam": ("test_convnext", "dilated_reparam")}
BASES["in_chans"] = ("test_resnet", "in_chans(5)")


def fashion(folder: Path, count: int) -> Path:
    """Files in MNIST's format, one of them not packed."""
    for part, packed in (("train", True), ("t10k", False)):
        for kind, header, shape in (("images-idx3", 16, (count, 28, 28)), ("labels-idx1", 8, (count,))):
            data = bytes(header) + (np.arange(np.prod(shape)) % 10).astype(np.uint8).tobytes()
            file = folder / f"{part}-{kind}-ubyte"
            file.with_name(file.name + ".gz" * packed).write_bytes(gzip.compress(data) if packed else data)
    return folder


def test_a_study_trains_each_form_from_both_starts_and_writes_json(tmp_path: Path) -> None:
    images, said = digit_scenes(train=16, test=8, side=32), []
    result = run_edit_study(
        tmp_path, [images], candidates=("eca",), settings=Settings(steps=4, batch=4, seeds=1), step=said.append
    )
    forms = [(run["candidate"], run["start"]) for run in result["runs"]]
    assert forms == [(PLAIN, "identity"), ("eca", "identity"), ("eca", "usual")]
    assert len(said) == runs((PLAIN, "eca"), 1) == 3
    assert json.loads((tmp_path / "edits.json").read_text()) == result
    assert result["costs"]["eca"]["params"] > result["costs"][PLAIN]["params"]
    assert result["costs"]["eca"]["trained"] == result["costs"]["eca"]["params"]
    assert result["settings"]["steps"] == 4
    assert result["data"][0]["side"] == 32
    assert {row["candidate"] for row in result["summary"]} == {PLAIN, "eca"}


def test_ways_that_train_fewer_parameters_start_as_the_net_and_learn_only_what_they_say() -> None:
    plain = trained_net(10, seed=0).eval()
    torch.nn.init.normal_(plain.classifier.weight)
    x, learned = testing.image(plain, 32, 32), {}
    expected = plain(x)
    for name in ("lora, base frozen", PEFT, "classifier only"):
        model = CANDIDATES[name].identity(copy.deepcopy(plain)).eval()
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
        learned[name] = {key for key, value in model.named_parameters() if value.requires_grad}
    assert learned["classifier only"] == {"classifier.weight", "classifier.bias"}
    assert all("lora_" in key or "classifier" in key for key in learned[PEFT])
    branches = [sum("lora" in key for key in learned[name]) for name in ("lora, base frozen", PEFT)]
    assert branches[0] == branches[1] > 0


def test_steps_of_candidates_are_timed_in_turn() -> None:
    said = []
    images, ways = digit_scenes(train=8, test=1, side=32), (PEFT, "classifier only")
    times = step_times(images, 1, candidates=ways, settings=Settings(batch=2), step=said.append)
    assert list(times) == [PLAIN, *ways]
    assert times[PLAIN] == {"ratio": 1, "least": 1, "most": 1}
    assert len(said) == 2


def test_an_unknown_candidate_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no candidate 'ecs'; there are: no edit, eca"):
        run_edit_study(tmp_path, [], candidates=("ecs",))


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_start_has_the_tensors_of_the_edit_and_computes_something_else(name: str) -> None:
    base, text = BASES.get(name, ("test_resnet", name))
    plain = testing.trained(base, num_classes=10)
    torch.manual_seed(0)
    usual, edited = edit_usually(copy.deepcopy(plain), text).eval(), tbx.edit(copy.deepcopy(plain), text)
    assert {k: v.shape for k, v in usual.state_dict().items()} == {k: v.shape for k, v in edited.state_dict().items()}
    x = testing.image(usual, 64, 64)
    assert testing.largest(testing.outputs(usual, x), testing.outputs(plain, x[:, : plain.in_chans])) > 1e-3


def test_an_edit_without_another_start_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen_bn has no initialisation but the identity"):
        edit_usually(testing.trained("test_resnet", num_classes=10), "frozen_bn")


def test_fashion_mnist_is_read_packed_or_not_and_scaled(tmp_path: Path) -> None:
    images = read_images(fashion(tmp_path, 6), train=5, test=4, side=32)
    assert images.train.shape == (5, 3, 32, 32)
    assert images.test_labels.tolist() == [0, 1, 2, 3]
    assert images.classes == 10
    with pytest.raises(ValueError, match=r"expected 7 images in .*; there are 6"):
        read_images(tmp_path, train=7, test=4, side=32)


def test_a_folder_per_class_is_read_and_split_the_same_way_each_time(tmp_path: Path) -> None:
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (40, 30), (100 * label, 10 * index, 0)).save(tmp_path / name / f"{index}.png")
    first, again = (read_images(tmp_path, train=5, test=3, side=32) for _ in range(2))
    assert first.train.equal(again.train)
    assert (first.train[:, 0, 0, 0] == 100 * first.train_labels).all()
    assert first.classes == 2
    with pytest.raises(ValueError, match="expected a folder per class"):
        read_images(tmp_path / "cats", train=1, test=1, side=32)
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist, or name a folder"):
        read_images(tmp_path / "none", train=1, test=1, side=32)


def test_scenes_say_which_digits_they_have() -> None:
    images = digit_scenes(train=6, test=2, side=48)
    assert images.train.shape == (6, 3, 48, 48)
    assert images.train_labels.shape == (6, 10)
    assert 1 <= images.train_labels.sum(1).min() <= images.train_labels.sum(1).max() <= 5


def test_a_verdict_needs_the_same_sign_with_every_seed() -> None:
    scores = {PLAIN: (0.5, 0.5, 0.5), "better": (0.6, 0.51, 0.7), "worse": (0.4, 0.4, 0.49), "mixed": (0.9, 0.9, 0.5)}
    made = [
        {"data": "d", "candidate": name, "start": "identity", "seed": seed, "score": score}
        for name, found in scores.items()
        for seed, score in enumerate(found)
    ]
    verdicts = {row["candidate"]: row["verdict"] for row in summary({"runs": made})}
    assert verdicts["better"] == "better with every seed"
    assert verdicts["worse"] == "worse with every seed"
    assert verdicts["mixed"] == verdicts[PLAIN] == "no difference seen"


def test_the_committed_study_has_every_candidate_with_three_seeds() -> None:
    assert MEASURED["summary"] == summary(MEASURED)
    fashion = [run for run in MEASURED["runs"] if run["data"] == "Fashion-MNIST"]
    assert len(fashion) == runs(tuple(CANDIDATES), 3)
    assert "Fashion-MNIST" in measured("eca")
    assert "Fashion-MNIST" in measured("lora")
    assert measured("dcn") == "not measured"


@pytest.mark.slow
def test_the_page_is_made_from_the_committed_study() -> None:
    assert (ROOT / "docs" / "guides" / "which-edit.md").read_text(encoding="utf-8") == BENCHMARK.page(
        MEASURED, INSERTION
    )


def test_the_command_refuses_a_folder_without_images(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["edit-study", "--data", str(tmp_path)])
    assert done.exit_code == 2
    assert "name a folder of images" in done.stderr
