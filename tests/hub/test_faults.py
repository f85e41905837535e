"""Every fault of `cases.py` ends in the right weights or a clear error: content by LFS and Xet, and a difference."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from cases import CASES, ERRORS
from faulty import FaultyHub
from huggingface_hub import constants
from world import RIGHT, fresh

import timm_backbones_ext as tbx
from timm_backbones_ext import testing


@pytest.fixture(scope="module")
def saved(local_hub: FaultyHub) -> Iterator[Path]:
    torch.manual_seed(0)
    model = testing.calibrate(
        timm.create_model("ext_convnext_atto", depths=(1, 1, 1, 1), edits="eca", num_classes=3)
    ).eval()
    folder = tbx.save(model, tempfile.mkdtemp())
    with fresh(local_hub, "faults/first", folder) as world:
        world.pull()  # imports what a process without rights could not read, where root alone may read the interpreter
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def difference(saved: Path) -> Iterator[Path]:
    """The same model as the difference to a base, which is what a fault of a large file meets then."""
    tbx.push_to_hub(saved, "faults/base")
    model = tbx.edit(timm.create_model("hf-hub:faults/base", pretrained=True), "lora(rank=1, stages=[4])")
    folder = tbx.save(model, tempfile.mkdtemp(), delta=True)
    yield folder
    shutil.rmtree(folder)


OF_A_LARGE_FILE = {
    "safetensors file cut short in the repo",
    "weights of another model",
    "puller killed in the middle",
    "four processes at once",
}
"""Cases that need 5 MB in the repo itself; `test_delta.py` damages the file of a difference."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)


def test_every_expected_error_belongs_to_a_case() -> None:
    assert set(ERRORS) <= set(CASES)


@pytest.mark.parametrize("transport", ["lfs", "xet", "delta"])
@pytest.mark.parametrize("name", CASES)
def test_a_fault_ends_in_the_right_weights_or_a_clear_error(
    name: str, transport: str, saved: Path, difference: Path, local_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if transport == "delta" and name in OF_A_LARGE_FILE:
        pytest.skip("needs a large file in the repo itself")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", transport != "xet")
    folder = difference if transport == "delta" else saved
    with fresh(local_hub, f"faults/{transport}-{list(CASES).index(name)}", folder) as world:
        outcome = CASES[name](world)
    if name in ERRORS:
        assert re.search(ERRORS[name], outcome)
    else:
        assert outcome == RIGHT
