"""Tables, pictures and numbers of the documentation are those of the JSON that the benchmarks wrote."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timm_backbones_ext.registry import BUILT_IN

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
FIGURES = importlib.import_module("figures")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
CITED = re.compile(r"benchmarks/(\w+)\.json")
NUMBER = re.compile(r"(?<![\w.,/-])\d[\d,]*\.\d+(?![\w.])|\d+(?:\.\d+)?(?= ?%)")


ITEMS = [
    pytest.param(item, id=f"{item.benchmark}-{type(item).__name__}-{at}", marks=pytest.mark.slow if item.slow else ())
    for at, item in enumerate(FIGURES.MADE)
]


@pytest.mark.parametrize("item", ITEMS)
def test_a_page_and_a_picture_are_those_of_their_json(item: Any) -> None:
    if isinstance(item, FIGURES.Picture):
        assert item.there() == item.digest(), f"{item.file} is older than {item.source}: make figures"
    else:
        assert item.there() == item.made(), f"{item.page} is older than {item.sources}: make figures"


def test_every_variant_has_its_row() -> None:
    text = (ROOT / "docs" / "reference" / "variants.md").read_text(encoding="utf-8")
    assert [name for name in BUILT_IN if f"| `{name}` |" not in text] == []


def test_every_environment_variable_of_the_package_is_explained() -> None:
    files = [*ROOT.glob("timm_backbones_ext/**/*.py"), ROOT / "_timm_backbones_ext_autoload.py"]
    read = {name for file in files for name in re.findall(r"TIMM_BACKBONES_EXT_\w+", file.read_text(encoding="utf-8"))}
    text = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert {name for name in read if f"`{name}`" not in text} == set()


def test_numbers_of_a_paragraph_that_cites_a_json_stand_in_it() -> None:
    wrong = [
        f"{page.relative_to(ROOT)}: {number} is not in benchmarks/{', '.join(cited)}.json"
        for page in PAGES
        for paragraph in _written(page).split("\n\n")
        if (cited := CITED.findall(paragraph)) and not paragraph.startswith(("```", "|"))
        for number in NUMBER.findall(re.sub(r"\]\([^)]*\)|`[^`]*`", "", paragraph))
        if not any(_stands(number, name) for name in cited)
    ]
    assert not wrong


def _written(page: Path) -> str:
    """The text of a page without what is made from JSON."""
    text = page.read_text(encoding="utf-8")
    for item in FIGURES.MADE:
        if isinstance(item, FIGURES.Text) and ROOT / item.page == page:
            text = text.replace(item.there(), "")
    return text


def _stands(number: str, name: str) -> bool:
    """Whether a JSON has a number, as it is, in percent, in thousandths or in millions, rounded as it was written."""
    written, decimals = float(number.replace(",", "")), len(number.partition(".")[2])
    result = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    return any(round(scale * value, decimals) == written for value in _numbers(result) for scale in (1, 100, 1e3, 1e-6))


def _numbers(value: Any) -> Iterator[float]:
    """All numbers of a JSON."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value
