"""The variants as one web page that needs no network: a table of DataTables, from the package itables.

Needs the extra `list`.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
from jinja2 import Environment
from markupsafe import Markup, escape

from .._version import __version__
from ..edits import parse_edits
from ..families import Level
from .costs import measured
from .description import describe
from .listing import Listing

__all__ = ["Row", "render_page", "require_library", "row_of"]

TEMPLATE = Path(__file__).with_name("page.html.jinja")
PANES = ("family", "edits", "licences", "exact", "evidence")
"""Columns with a filter box."""
BASE = "as its base"


@dataclass(frozen=True)
class Row(Listing):
    """The row of a variant in the page."""

    params: int
    gmacs: float
    """1e9 multiply-adds at `input_size`."""
    input_size: tuple[int, int, int]
    levels: tuple[Level, ...]
    time_ratio: float | None
    """Time of a forward pass, edited over plain; None if it was not measured on this base."""
    exact: str
    """Modes in which all edits are exact."""
    evidence: tuple[str, ...]


def row_of(facts: Listing) -> Row:
    """The row of a variant; its model is built on the device `meta`."""
    about, edits = describe(facts.name), parse_edits(facts.edits)
    modes = {edit.exact for edit in edits}
    return Row(
        **vars(facts),
        params=about.params,
        gmacs=about.gmacs,
        input_size=about.input_size,
        levels=about.levels,
        time_ratio=measured(facts.base, facts.edits[0]) if len(facts.edits) == 1 else None,
        exact=BASE if not edits else "eval" if "eval" in modes else "eval+train",
        evidence=tuple(f"{edit}: {edit.evidence}" for edit in edits),
    )


def require_library() -> Path:
    """The folder of DataTables in the package itables.

    Raises:
        ImportError: The package is missing; the message has the pip line.
    """
    spec = find_spec("itables")
    if spec is None or spec.origin is None:
        raise ImportError('the page needs the extra list: pip install "timm-backbones-ext[list]"')
    return Path(spec.origin).parent / "html"


def render_page(
    found: Iterable[Listing], *, title: str = "Models", step: Callable[[str], None] = lambda _: None
) -> str:
    """One HTML page with its data, styles and scripts inside.

    Args:
        found: The variants to show.
        title: Headline.
        step: Called with the name of each variant once its facts are known; about 0.3 s each.

    Raises:
        ImportError: The extra `list` is not installed.
    """
    library, rows = require_library(), []
    for facts in found:
        rows.append(row_of(facts))
        step(facts.name)
    rows.sort(key=lambda row: not row.tags)  # those without weights last
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=title,
        rows=rows,
        options=_options(rows),
        styles=Markup((library / "dt_bundle.css").read_text(encoding="utf-8")),
        library=b64encode((library / "dt_bundle.js").read_bytes()).decode(),
        version=__version__,
        timm=timm.__version__,
    )


def _options(rows: Sequence[Row]) -> dict[str, Any]:
    """Options of DataTables, https://datatables.net/reference/option."""
    titles = {
        "name": "name",
        "family": "family",
        "base": "base",
        "edits": "edits",
        "licences": "licences",
        "params": "params (M)",
        "gmacs": "GMACs",
        "ratio": "time",
        "exact": "exact in",
        "evidence": "evidence",
    }
    panes = {
        "columns": [list(titles).index(key) for key in PANES],
        "layout": f"columns-{len(PANES)}",
        "viewTotal": True,
        "controls": False,
        "dtOpts": {"scrollY": "7.5rem"},
    }
    return {
        "data": [_cells(row) for row in rows],
        "columns": [_column(key, title) for key, title in titles.items()],
        "paging": False,
        "order": [],
        "layout": {"top1": {"searchPanes": panes}, "topStart": "info", "topEnd": "search", "bottomStart": None},
        "columnControl": [
            {"target": 1, "content": [{"extend": "search", "placeholder": "[title]"}]},
        ],
        "language": {"search": "Search:", "info": "_TOTAL_ models", "infoFiltered": "of _MAX_"},
    }


def _column(key: str, title: str) -> dict[str, Any]:
    """A column. Its cells are texts, or have parts for display, for sorting and searching, and for the filter box."""
    column: dict[str, Any] = {"data": key, "title": title, "defaultContent": ""}
    if key in ("name", "params", "gmacs", "ratio"):
        column["render"] = {"_": "value", "display": "shown"}
    if key in PANES:
        column["render"] = {"_": "text", "sp": "words"}
        column["searchPanes"] = {"orthogonal": "sp", "show": True}
    return column


def _cells(row: Row) -> dict[str, Any]:
    button = Markup('<button class="name" popovertarget="about-{0}">{0}</button>').format(row.name)
    kinds = sorted({text.partition(": ")[2].partition(":")[0] for text in row.evidence}) or [BASE]
    return {
        "name": {"value": row.name, "shown": button},
        "family": _words([row.family]),
        "base": escape(row.base),
        "edits": _words([edit.name for edit in parse_edits(row.edits)] or ["none"], ", ".join(row.edits)),
        "licences": _words(sorted(set(row.tags.values())) or ["no weights"]),
        "params": _number(row.params / 1e6),
        "gmacs": _number(row.gmacs),
        "ratio": _number(row.time_ratio, "x"),
        "exact": _words([row.exact]),
        "evidence": _words(kinds),
    }


def _number(value: float | None, unit: str = "") -> dict[str, Any]:
    return {"value": "", "shown": ""} if value is None else {"value": round(value, 2), "shown": f"{value:.2f}{unit}"}


def _words(words: list[str], text: str | None = None) -> dict[str, Any]:
    return {"text": ", ".join(words) if text is None else text, "words": words}
