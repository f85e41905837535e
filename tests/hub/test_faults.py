"""Every fault of `cases.py`, with content that came by LFS and by Xet, ends in the right weights or a clear error."""

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


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)


def test_every_expected_error_belongs_to_a_case() -> None:
    assert set(ERRORS) <= set(CASES)


@pytest.mark.parametrize("transport", ["lfs", "xet"])
@pytest.mark.parametrize("name", CASES)
def test_a_fault_ends_in_the_right_weights_or_a_clear_error(
    name: str, transport: str, saved: Path, local_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", transport == "lfs")
    with fresh(local_hub, f"faults/{transport}-{list(CASES).index(name)}", saved) as world:
        outcome = CASES[name](world)
    if name in ERRORS:
        assert re.search(ERRORS[name], outcome)
    else:
        assert outcome == RIGHT
