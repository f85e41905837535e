"""Fixtures of the transport's tests: a server that answers as a script says, in front of the local Hub."""

from collections.abc import Iterator

import pytest
from faulty import FaultyHub
from scripted import Scripted, scripted

from timm_backbones_ext.transport import PATIENCE


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PATIENCE, "first_wait", 0.01)


@pytest.fixture
def server(local_hub: FaultyHub) -> Iterator[Scripted]:
    with scripted(local_hub.endpoint) as running:
        yield running
