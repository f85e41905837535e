"""Every attack of `attacks.py` ends as it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import ATTACKS, TOKENS

from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.fsck import fsck


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    root: Path = tmp_path_factory.mktemp("guarded") / "hub"
    with LocalHub(root, TOKENS) as hub:
        yield hub
    assert fsck(root) == []


@pytest.mark.parametrize("done", ATTACKS)
def test_an_attack_ends_as_the_table_says(done: str, guarded: LocalHub) -> None:
    _, run = ATTACKS[done]
    assert run(guarded) > 0
