"""Results of `timm-ext edit-study` for each edit; their JSON file is part of the package."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["STUDY", "measured", "study"]

STUDY = Path(__file__).with_name("edit_study.json")
"""Written by `benchmarks/edit_study.py`."""


@cache
def study() -> dict[str, Any]:
    """The content of the file."""
    return json.loads(STUDY.read_text(encoding="utf-8"))


def measured(edit: str) -> str:
    """The result of this package's study for the edit with a name, or "not measured"."""
    found = [
        f"{row['data']} {row['gain']:+.3f} ({', '.join([row['verdict'], *row['candidate'].split(', ')[1:]])})"
        for row in study()["summary"]
        if re.split(r"\W", row["candidate"])[0] == edit and row["start"] == "identity"
    ]
    return f"short fine-tuning of EfficientNet-Lite0: {'; '.join(found)}" if found else "not measured"
