"""Tables in the documentation are those that the benchmarks make of their JSON."""

import json
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A benchmark as a module; those of the Hub set environment variables, which are taken back."""
    environment = dict(os.environ)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = spec_from_file_location(f"{request.param}_benchmark", ROOT / "benchmarks" / f"{request.param}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    os.environ.clear()
    os.environ.update(environment)
    return module


@pytest.mark.parametrize(
    ("benchmark", "make", "figures", "page"),
    [
        ("memory", "page", "benchmarks/memory.json", "guides/training-memory.md"),
        ("delta", "tables", "benchmarks/delta.json", "guides/delta.md"),
        ("deploy", "table", "benchmarks/deploy.json", "guides/deploy.md"),
        ("edits", "page", "timm_backbones_ext/catalog/costs.json", "reference/costs.md"),
        ("reliability", "page", "benchmarks/reliability.json", "concepts/reliability.md"),
    ],
    indirect=["benchmark"],
)
def test_a_page_shows_the_figures_of_its_json(benchmark: ModuleType, make: str, figures: str, page: str) -> None:
    result = json.loads((ROOT / figures).read_text(encoding="utf-8"))
    made = getattr(benchmark, make)(result)
    assert made.strip() in (ROOT / "docs" / page).read_text(encoding="utf-8")
