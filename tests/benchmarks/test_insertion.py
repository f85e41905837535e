"""The insertion study: what the committed run shows, and the page made from it."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = spec_from_file_location("insertion_benchmark", ROOT / "benchmarks" / "insertion.py")
BENCHMARK = module_from_spec(_SPEC)
_SPEC.loader.exec_module(BENCHMARK)
MEASURED = json.loads((ROOT / "benchmarks" / "insertion.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("part", "table"), [("photos", BENCHMARK.PHOTOS), ("digits", BENCHMARK.DIGITS)])
def test_the_identity_changes_nothing_and_every_insertion_was_tried(part: str, table: dict) -> None:
    found = MEASURED[part]
    assert list(found["insertions"]) == list(table)
    assert {facts["identity"]["mean"] for facts in found["insertions"].values()} == {found["before"]}
    assert all((facts["usual"] is None) == (table[name].usual is None) for name, facts in found["insertions"].items())


def test_several_hundred_crops_were_seen() -> None:
    assert MEASURED["photos"]["crops"] >= 300
    assert MEASURED["photos"]["classes"] > 5


def test_the_page_is_made_from_the_json() -> None:
    assert (ROOT / "docs" / "concepts" / "insertion.md").read_text(encoding="utf-8") == BENCHMARK.page(MEASURED)
