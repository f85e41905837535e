"""Fixtures that all tests share, and the examples of README and docs as tests.

The Hub client reads its environment when it is imported, so that is set up first.
"""

import doctest
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

with socket.create_server(("127.0.0.1", 0)) as _free:
    PORT = _free.getsockname()[1]

os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{PORT}",
    HF_HOME=tempfile.mkdtemp(prefix="hf-home-"),
    HF_TOKEN="local",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TIMM_BACKBONES_EXT_FIRST_WAIT="0.01",
)

sys.path.insert(0, str(Path(__file__).with_name("tests") / "faults"))

import pytest
import torch
from faulty import FaultyHub
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # two workers with two threads each wait for each other


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def local_hub() -> Iterator[FaultyHub]:
    """A Hub on this machine, where every client of the test process goes."""
    with FaultyHub(port=PORT) as hub:
        yield hub


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    fixtures=["local_hub"],
).pytest()
