"""Two processes compute what one computes: gradients under DDP, losses under FSDP2, and whole runs."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from worker import NORMS, batch, gradients, learned, model, steps

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*command: str) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*TORCHRUN, *command], env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run(str(Path(__file__).with_name("worker.py")), str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_two_processes_have_the_gradients_of_one_with_the_double_batch(norm: str, together: Path) -> None:
    net = model(norm)
    loss = learned(net, *batch())
    expected, found = gradients(net), load_file(together / f"{norm}.safetensors")
    torch.testing.assert_close(found.pop("loss"), loss, rtol=1e-5, atol=0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.abs().max() > 0 or "running" in name
        assert (found[name] - value).abs().max() <= 1e-5 * max(value.abs().max(), 1), name


def test_sharded_by_stage_the_losses_are_those_of_one_process(together: Path) -> None:
    losses = steps(model("frozen_bn"), *batch())
    assert losses[2] < losses[0]
    torch.testing.assert_close(load_file(together / "fsdp.safetensors")["losses"], losses, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_run_of_two_processes_has_the_losses_of_one_with_the_double_batch(tmp_path: Path) -> None:
    train = ("train-detector", "--data", "digits:8", "--epochs", "2", "--min-size", "48", "--sync-bn", "--output")
    run("-m", "timm_backbones_ext.cli", *train, str(tmp_path / "two"), "--batch-size", "2")
    one = [sys.executable, "-m", "timm_backbones_ext.cli", *train, str(tmp_path / "one"), "--batch-size", "4"]
    subprocess.run(one, check=True, capture_output=True)
    curves = []
    for name in ("one", "two"):
        with (tmp_path / name / "log.csv").open() as file:
            curves.append([float(row["loss"]) for row in csv.DictReader(file) if row["loss"]])
    assert len(curves[0]) == 4
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
