"""Writes docs/reference/downstream.md from the results of the last `make test-clients`."""

import importlib.metadata
import json
import sys
from pathlib import Path

from conftest import NAMES, RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "downstream.md"
BETWEEN = "<!-- results: made by make test-clients -->\n", "<!-- end of results -->\n"
BESIDE = ("torch", "torchvision", "timm", "huggingface_hub", "numpy")


def main() -> int:
    """Put the tables between the page's markers."""
    files = sorted(RESULTS.glob("*.json"), key=lambda file: file.stem.lower())
    clients = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BETWEEN[0])
    _, _, tail = rest.partition(BETWEEN[1])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in BESIDE)
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    made = f"\nWith {python}, {versions}.\n\n{table(clients)}\n"
    PAGE.write_text(head + BETWEEN[0] + made + BETWEEN[1] + tail, encoding="utf-8")
    return 0


def table(clients: dict[str, dict]) -> str:
    """A row per client and kind of run; what did not work, and what a user has to know, as numbered remarks."""
    remarks: list[str] = []

    def number(remark: str) -> str:
        if remark not in remarks:
            remarks.append(remark)
        return f"({remarks.index(remark) + 1})"

    lines = [
        "| client | version | what ran | " + " | ".join(f"`{name}`" for name in NAMES) + " |",
        "|---" * (3 + len(NAMES)) + "|",
    ]
    for client, facts in clients.items():
        note = f" {number(facts['remark'])}" if facts["remark"] else ""
        first = (f"{client}{note}", facts["version"])
        for run, results in facts["rows"].items():
            found = [results.get(name, results.get("all", "")) for name in NAMES]
            cells = [result if result in ("yes", "") else f"no {number(result)}" for result in found]
            lines.append(f"| {' | '.join((*first, run, *cells))} |")
            first = ("", "")
    return "\n".join([*lines, "", *(f"{at}. {remark}" for at, remark in enumerate(remarks, 1))])


if __name__ == "__main__":
    sys.exit(main())
