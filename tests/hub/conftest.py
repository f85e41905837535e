"""What the tests of pushes share."""

import pytest


@pytest.fixture(autouse=True)
def _healthy(healthy: None) -> None:
    """The Hub is well again after each test."""


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """A repo of the test's own."""
    return f"push/{abs(hash(request.node.nodeid)):x}"
