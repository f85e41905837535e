"""What `pytest tests` leaves out."""

from pathlib import Path

import pytest
from terminal import terminal as terminal

CLIENTS = Path(__file__).parent / "clients"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The clients have an environment of their own and run when they are named: `make test-clients`."""
    if collection_path != CLIENTS:
        return None
    asked = [config.invocation_params.dir / arg.partition("::")[0] for arg in config.args]
    return None if any(path.resolve().is_relative_to(CLIENTS) for path in asked) else True
