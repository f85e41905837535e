"""Deployed folders that all tests share: one small model by every runtime, exported once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small import maps_model

import timm_backbones_ext as tbx


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of `maps_model` by a runtime."""
    made: dict[str, Path] = {}

    def by(runtime: str) -> Path:
        if runtime not in made:
            folder = tmp_path_factory.mktemp("deployed") / runtime
            made[runtime] = tbx.deploy_model(maps_model(), torch.randn(1, 3, 64, 64), runtime).save(folder)
        return made[runtime]

    return by
