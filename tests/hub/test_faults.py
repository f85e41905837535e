"""Every fault of `cases.py`, with content that came by LFS and by Xet, ends in the right weights or a clear error."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from cases import CASES, RIGHT, fresh
from faulty import FaultyHub
from huggingface_hub import constants

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.transfer import PATIENCE

ERRORS = {
    "connection always reset": r"cannot be reached and this revision is not in the cache .*\(tried 6 times\)",
    "one byte of the weights always flipped": "model.safetensors arrived damaged twice",
    "one byte of the config always flipped": "config.json arrived damaged twice",
    "API always answers 503": r"the Hub answered 503: .*\(tried 6 times\)",
    "storage always answers 500": r"the Hub answered 500: .*\(tried 6 times\)",
    "no such revision": "no such branch, tag or commit",
    "safetensors file cut short in the repo": "is damaged or is not a safetensors file",
    "header that points outside the file": "is damaged or is not a safetensors file",
    "header of 100 MB": "is damaged or is not a safetensors file",
    "weights of another model": r"do not fit ext_convnext_atto, nothing was loaded: .*missing \(",
    "disk full": "no space left for model.safetensors",
    "cache that cannot be written to, cold": "is not in the cache, which cannot be written to",
    "revision deleted after it was pulled": "no such branch, tag or commit",
    "private repo without a token": "no such repo, or a private one. If it is yours, run `hf auth login`",
    "gated repo without a token": "is gated: ask for access on its page",
    "pickle only": r"has no model.safetensors, and pickles are not read. Convert",
    "pickle beside safetensors that fail": "the Hub answered 503",
    "config that names an architecture of another size": "do not fit ext_convnext_femto",
    "config that names an unknown architecture": "unknown architecture 'ext_convnext_yocto'",
    "model_args of wrong types": r"config.json does not fit any model",
    "model_args that no model has": r"config.json does not fit any model .*shell",
    "model_args for a model of terabytes": "no backbone has so many of anything",
    "edits that are code": r"config.json does not fit any model",
    "path that leads out of the cache": "is no path inside a repo; nothing was loaded",
}
"""What the error says; a case that is not here ends in the right weights."""


@pytest.fixture(scope="module")
def saved() -> Iterator[Path]:
    torch.manual_seed(0)
    model = testing.calibrate(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3)).eval()
    folder = tbx.save(model, tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PATIENCE, "first_wait", 0.01)
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
