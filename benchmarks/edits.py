"""What every edit costs in time: a forward pass of the edited model over that of its base.

    python benchmarks/edits.py [ROUNDS [EDIT ...]]

For each edit: outputs are compared first, then both models run in turn on the same image, batch 1, float32; the median
of the ratios counts. With EDITs, only these are measured. Writes
timm_backbones_ext/catalog/costs.json, which `timm-ext edits` reads, and docs/reference/costs.md.
"""

import copy
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.catalog.costs import RATIOS, cost, named_base

SIDE = 224  # pixels
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "costs.md"


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """One forward pass."""
    start = time.perf_counter()
    model(x)
    return time.perf_counter() - start


def ratio(base: str, item: tbx.Edit, rounds: int) -> float:
    """Time of the edited model over that of its base: the median over rounds in which both run."""
    plain = testing.calibrate(timm.create_model(base)).eval()
    edited = tbx.edit(copy.deepcopy(plain), item).eval()
    x = testing.image(edited, SIDE, SIDE)
    expected = testing.outputs(plain, x[:, :3])
    error = testing.largest(testing.outputs(edited, x), expected, sampling=item.sampling)
    if error > 1e-4:
        sys.exit(f"{item}: outputs differ by {error:.1e}, relative, so there is nothing to time")
    seconds(edited, x), seconds(plain, x[:, :3])  # warm up
    return statistics.median(seconds(edited, x) / seconds(plain, x[:, :3]) for _ in range(rounds))


def page(result: dict) -> str:
    """The table as Markdown."""
    lines = [
        "# What edits cost",
        "",
        "Made by `benchmarks/edits.py`: parameters, multiply-adds at the base's input size, and time of a forward pass",
        f"at {SIDE} px, batch 1, edited over plain, measured in turn on {result['machine']['cores']} "
        f"{result['machine']['processor']} cores with torch {result['versions']['torch']}. Edits that",
        "merge cost nothing after `tbx.merge`.",
        "",
        "| edit | base | parameters | GMACs | time | merges |",
        "|---|---|---|---|---|---|",
    ]
    for name, facts in result["edits"].items():
        base, _, edit = name.partition(" + ")
        found = cost(edit, base)
        lines.append(
            f"| `{edit}` | {base} | {found.params:+,} | {found.gmacs:+.2f} | {facts['time_ratio']:.2f}x | "
            f"{'yes' if found.merges else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main(rounds: int = 21, *names: str) -> None:
    """Measure, write and print."""
    edits = json.loads(RATIOS.read_text(encoding="utf-8"))["edits"] if names else {}
    with torch.inference_mode():
        for name in names or tbx.EDITS:
            (item,) = tbx.parse_edits(tbx.EDITS[name].example)
            for base in (named_base(item, family) for family in item.families):
                edits[f"{base} + {item}"] = {"time_ratio": round(ratio(base, item, rounds), 2)}
                print(base, item, edits[f"{base} + {item}"], flush=True)
    result = {
        "edits": dict(
            sorted(edits.items(), key=lambda entry: list(tbx.EDITS).index(entry[0].split(" + ")[1].split("(")[0]))
        ),
        "rounds": rounds,
        "side": SIDE,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
    }
    RATIOS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
