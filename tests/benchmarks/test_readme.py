"""The README: short, and its links to the documentation lead to pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_has_fewer_than_130_lines() -> None:
    assert len(TEXT.splitlines()) < 130


def test_every_link_is_absolute_since_pypi_shows_it_too() -> None:
    assert [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("https://")] == []


def test_every_link_to_the_documentation_leads_to_a_page() -> None:
    pages = re.findall(r"https://timm-backbones-ext\.github\.io/timm-backbones-ext/([\w/-]*)", TEXT)
    missing = [page for page in pages if page and not (ROOT / "docs" / f"{page.strip('/')}.md").is_file()]
    assert len(pages) > 5
    assert missing == []


def test_the_picture_is_one_of_the_repository() -> None:
    (path,) = re.findall(r"raw\.githubusercontent\.com/[\w-]+/[\w-]+/main/([\w/.-]+)", TEXT)
    assert (ROOT / path).is_file()
