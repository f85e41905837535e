"""Tests that `pytest tests` leaves out, and the saved backbone that tests of folders, files and the Hub share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from faulty import FaultyHub
from terminal import terminal as terminal

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

CLIENTS = Path(__file__).parent / "clients"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The clients have an environment of their own and run when they are named: `make test-clients`."""
    if collection_path != CLIENTS:
        return None
    asked = [config.invocation_params.dir / arg.partition("::")[0] for arg in config.args]
    return None if any(path.resolve().is_relative_to(CLIENTS) for path in asked) else True


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small backbone with an edit; nobody changes it."""
    torch.manual_seed(0)
    model = testing.calibrate(timm.create_model("ext_test_convnext", edits="eca", num_classes=3)).eval()
    return tbx.save(model, tmp_path_factory.mktemp("backbone") / "saved")


@pytest.fixture(scope="module")
def saved(backbone: Path, local_hub: FaultyHub, request: pytest.FixtureRequest) -> Path:
    """The folder of the backbone, which is on the Hub as the `REPO` of the test's module."""
    local_hub.faults()
    tbx.push_to_hub(backbone, request.module.REPO)
    return backbone


@pytest.fixture
def copy(backbone: Path, tmp_path: Path) -> Path:
    """A copy of the backbone's folder, to be changed."""
    return Path(shutil.copytree(backbone, tmp_path / "copy"))


@pytest.fixture
def healthy(local_hub: FaultyHub) -> Iterator[None]:
    """A Hub that is well again after the test."""
    yield
    local_hub.faults()
