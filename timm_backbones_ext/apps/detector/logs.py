"""A tracker for Accelerate that writes the figures of a run as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

__all__ = ["CsvTracker"]


class CsvTracker(GeneralTracker):
    """Writes each call of `log` as a row, at once; missing figures are empty.

    Args:
        file: The CSV file.
        columns: Names of the figures, beside `step`.
        keep: Last step of an earlier run whose rows are kept; none by default.
    """

    name = "csv"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, file: Path, columns: Sequence[str], keep: int = -1) -> None:
        super().__init__()
        self.file, self.columns, self.keep = file, ("step", *columns), keep

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.file

    @on_main_process
    def start(self) -> None:
        """Write the header and the rows that are kept."""
        rows: list[dict[str, str]] = []
        if self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= self.keep]
        draft = self.file.with_suffix(".draft")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        draft.replace(self.file)

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Do nothing: settings.json holds the settings of a run."""

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Append a row."""
        with self.file.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow({"step": step, **values})
