"""Fixtures of the transport's tests: a server that answers as a script says, in front of the local Hub."""

from collections.abc import Iterator

import pytest
from faulty import FaultyHub
from scripted import Scripted, scripted


@pytest.fixture(autouse=True)
def _healthy(healthy: None) -> None:
    """The Hub is well again after each test."""


@pytest.fixture
def server(local_hub: FaultyHub) -> Iterator[Scripted]:
    with scripted(local_hub.endpoint) as running:
        yield running
