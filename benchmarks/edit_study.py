"""Do edits help? What `timm-ext edit-study` measures, and the page that says which edit to take.

    python benchmarks/edit_study.py                         trains, hours on a busy machine
    python benchmarks/edit_study.py FASHION.json DIGITS.json takes what two runs of `run_edit_study` wrote
    python benchmarks/edit_study.py --page                  writes the page anew

All candidates learn Fashion-MNIST (Debian's package `dataset-fashion-mnist`), some of them scenes of digits. Writes
timm_backbones_ext/catalog/edit_study.json, which `timm-ext edits` reads, and from it, from the costs and from the
insertion study docs/guides/which-edit.md.
"""

import json
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import torch

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.edit_study import CANDIDATES, PLAIN, run_edit_study, runs, summary
from timm_backbones_ext.apps.images import digit_scenes, read_images
from timm_backbones_ext.catalog.costs import cost, named_base
from timm_backbones_ext.catalog.measured import STUDY
from timm_backbones_ext.console import progress

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "guides" / "which-edit.md"
SIZES = {"train": 2000, "test": 500, "side": 48}
ON_DIGITS = ("eca", "kernel(size=7)")


def measured() -> list[dict[str, Any]]:
    """Both studies."""
    torch.set_num_threads(1)
    parts = ((read_images(**SIZES), tuple(CANDIDATES)), (digit_scenes(**SIZES), ON_DIGITS))
    found = []
    with tempfile.TemporaryDirectory() as scratch, progress(sum(runs((PLAIN, *n), 3) for _, n in parts), "run") as step:
        for images, names in parts:
            found.append(run_edit_study(Path(scratch), [images], candidates=names, step=step))
    return found


def joined(first: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """One result out of several with the same net, settings and machine.

    Raises:
        ValueError: They differ in these.
    """
    parts = (first, *others)
    for other in others:
        for key in ("net", "weights", "settings", "machine"):
            if other[key] != first[key]:
                raise ValueError(f"expected runs with the same {key}; got {first[key]} and {other[key]}")
    result = {**first, "seconds": sum(part["seconds"] for part in parts)}
    result["runs"] = [run for part in parts for run in part["runs"]]
    result["data"] = [
        item for part in parts for item in part["data"] if item["name"] in {run["data"] for run in part["runs"]}
    ]
    return {**result, "summary": summary(result)}


def sentence(data: dict[str, Any]) -> str:
    """What a data set is, in words."""
    return f"{data['name']} ({data['train']:,} images to train on, {data['test']} to test on)"


def method(result: dict[str, Any]) -> str:
    """How the nets were fine-tuned, in words."""
    settings, sides = result["settings"], {item["side"] for item in result["data"]}
    text = (
        f"`{result['net']}` with trained weights (`{result['weights']}`) and edited forms of it were fine-tuned alike: "
        f"all parameters with a new classifier that timm initialised, {settings['steps']} steps of {settings['batch']} "
        f"images at {' and '.join(map(str, sorted(sides)))} px, AdamW with a rate of {settings['rate']}, batch norms "
        f"with a momentum of {settings['momentum']}, the same order of images, {settings['seeds']} seeds. The images "
        f"are {' and '.join(sentence(item) for item in result['data'])}."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def outcome(rows: list[dict[str, Any]], plain: str) -> str:
    """Plain words on what gained and what did not, at the identity."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["start"] == "identity" and row["candidate"] != plain:
            groups.setdefault(row["verdict"], []).append(f"`{row['candidate']}`")
    return "; ".join(f"{verdict} for {', '.join(names)}" for verdict, names in sorted(groups.items()))


def compared_starts(rows: list[dict[str, Any]]) -> str:
    """How often the identity ends above the usual initialisation."""
    means = {(row["data"], row["candidate"], row["start"]): row["mean"] for row in rows}
    pairs = [(means[d, c, "identity"], value) for (d, c, start), value in means.items() if start == "usual"]
    higher = sum(identity > usual for identity, usual in pairs)
    return f"the identity ends above the usual initialisation in {higher} of {len(pairs)} pairs of means"


def page(result: dict[str, Any], insertion: dict[str, Any]) -> str:
    """The page as Markdown."""
    settings, rows = result["settings"], result["summary"]
    scores = "\n".join(
        f"| {row['data']} | {row['candidate'] if ' ' in row['candidate'] else '`' + row['candidate'] + '`'} | "
        f"{row['start']} | {row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f}) | {row['gain']:+.3f} | "
        f"{ratio(result, row['candidate']):.2f}x | {'-' if row['candidate'] == PLAIN else row['verdict']} |"
        for row in rows
    )
    parts = [
        f"- {item['name']}: {outcome([r for r in rows if r['data'] == item['name']], PLAIN)}."
        for item in result["data"]
    ]
    return f"""\
# Which edit should I use?

Made by `benchmarks/edit_study.py` from four sources: what an edit [costs](../reference/costs.md), what was published,
what is left of a trained net [right after the insertion](../concepts/insertion.md), and a short fine-tuning that was
measured here.

{chooser(insertion)}

Published gains come from long trainings and other nets. They are the better guide where the tasks are alike. An edit
never costs accuracy at the start: it begins as the identity.

## Measured here

{method(result)}

The score is the accuracy; for scenes, which have several digits, it is the mean average precision of the ten digits.
The table has the mean over the seeds with the least and the most, the mean gain over the net without edits with the
same seed, and multiply-adds as a ratio. The verdict says whether the gain has the same sign with every seed.

| data | edit | start | score | gain | multiply-adds | verdict |
|---|---|---|---|---|---|---|
{scores}

In words, for starts at the identity:

{chr(10).join(parts)}

{"No edit gained with every seed." if not any(r["verdict"].startswith("better") for r in rows) else ""}

Between the two starts, {compared_starts(rows)}.

The study is small. A run sees {settings["steps"] * settings["batch"]:,} images, and with this number of test images a
difference of two hundredths between two runs is chance. It shows what an edit does in the first minutes of fine-tuning,
and not what it gives after a full training. The size of the images differs from that of the pretraining, so frozen
batch norms (`frozen_bn`) hold statistics that do not fit. `timm-ext edit-study --data FOLDER` runs the study on your
own images.
"""


def ratio(result: dict[str, Any], name: str) -> float:
    """Multiply-adds over those of the net without edits."""
    return result["costs"][name]["gmacs"] / result["costs"][PLAIN]["gmacs"]


def chooser(insertion: dict[str, Any]) -> str:
    """A table of all edits: families, time, published evidence, what the usual initialisation leaves."""
    left: dict[str, str] = {}
    for part, unit in (("digits", "digits"), ("photos", "photos")):
        for name, facts in insertion[part]["insertions"].items():
            if facts["usual"]:
                left[name.partition("(")[0]] = f"{facts['usual']['mean']} % ({unit})"
    lines = ["| edit | families | time | merges | published | usual start leaves |", "|---|---|---|---|---|---|"]
    for name in tbx.list_edits():
        (item,) = tbx.parse_edits(tbx.EDITS[name].example)
        found = cost(item, named_base(item))
        time = f"{found.time_ratio:.2f}x on {found.base}" if found.time_ratio else "-"
        lines.append(
            f"| `{item}` | {', '.join(item.families)} | {time} | {'yes' if found.merges else 'no'} | "
            f"{item.evidence} | {left.get(name, '-')} |"
        )
    return "\n".join(lines)


def main(*words: str) -> None:
    """Measure, or join what was measured, and write the page."""
    if "--page" not in words:
        parts = [json.loads(Path(word).read_text(encoding="utf-8")) for word in words] or measured()
        STUDY.write_text(json.dumps(joined(*parts), indent=1) + "\n", encoding="utf-8")
    insertion = json.loads((HERE / "insertion.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(json.loads(STUDY.read_text(encoding="utf-8")), insertion), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
