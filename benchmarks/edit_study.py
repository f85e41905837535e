"""Do edits help? What `timm-ext edit-study` measures, and the page that says which edit to take.

    python benchmarks/edit_study.py                         trains, an hour on one core
    python benchmarks/edit_study.py FASHION.json DIGITS.json takes what two runs of `run_edit_study` wrote
    python benchmarks/edit_study.py --times                 measures the time of a step anew, two minutes
    python benchmarks/edit_study.py --page                  writes the page anew

The time of a step is that of each candidate beside the net without edits, in turn; joining keeps what is there.
All candidates learn Fashion-MNIST (Debian's package `dataset-fashion-mnist`) and scenes of digits. Writes
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
from timm_backbones_ext.apps.candidates import CANDIDATES, PLAIN
from timm_backbones_ext.apps.edit_study import run_edit_study, runs, step_times, summary
from timm_backbones_ext.apps.images import Images, digit_scenes, read_images
from timm_backbones_ext.catalog.costs import measured as measured_ratio
from timm_backbones_ext.catalog.costs import named_base
from timm_backbones_ext.catalog.measured import STUDY
from timm_backbones_ext.console import progress

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "guides" / "which-edit.md"
SIZES = {"train": 8000, "test": 1000, "side": 48}
ROUNDS = 21


def measured() -> list[dict[str, Any]]:
    """Both studies."""
    torch.set_num_threads(1)
    data, names = (read_images(**SIZES), digit_scenes(**SIZES)), tuple(CANDIDATES)
    with tempfile.TemporaryDirectory() as scratch, progress(len(data) * runs(names, 3), "run") as step:
        return [run_edit_study(Path(scratch), [images], candidates=names, step=step) for images in data]


def timed() -> dict[str, Any]:
    """The time of a step; that depends on the size of the images and not on what they show."""
    torch.set_num_threads(1)
    pixels = torch.randint(256, (256, 3, SIZES["side"], SIZES["side"]), dtype=torch.uint8)
    labels = torch.randint(10, (256,))
    with progress(ROUNDS + 1, "round") as step:
        return step_times(Images("noise", pixels, labels, pixels, labels, classes=10), ROUNDS, step=step)


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


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of 120 characters."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def sentence(data: dict[str, Any]) -> str:
    """What a data set is, in words."""
    return f"{data['name']} ({data['train']:,} images to train on, {data['test']} to test on)"


def method(result: dict[str, Any]) -> str:
    """How the nets were fine-tuned, in words."""
    settings, sides = result["settings"], {item["side"] for item in result["data"]}
    other = [item for item in result["data"] if item["rate"] != 1]
    rates = "".join(f" ({item['rate']:g} times for {item['name']})" for item in other)
    text = (
        f"`{result['net']}` with trained weights (`{result['weights']}`) and edited forms of it were fine-tuned alike: "
        f"a new classifier that starts at zero, {settings['steps']} steps of {settings['batch']} images at "
        f"{' and '.join(map(str, sorted(sides)))} px, AdamW with a highest rate of {settings['rate']}{rates}, batch "
        f"norms with a momentum of {settings['momentum']}, the same order of images, {settings['seeds']} seeds. The "
        f"images are {' and '.join(sentence(item) for item in result['data'])}."
    )
    return wrapped(text)


def outcome(rows: list[dict[str, Any]], plain: str) -> str:
    """Plain words on what gained and what did not, at the identity."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["start"] == "identity" and row["candidate"] != plain:
            groups.setdefault(row["verdict"], []).append(f"`{row['candidate']}`")
    return "; ".join(f"{verdict} for {', '.join(names)}" for verdict, names in sorted(groups.items()))


def gained(rows: list[dict[str, Any]]) -> str:
    """Which edits are worth it by this study."""
    better = [row for row in rows if row["verdict"].startswith("better") and row["start"] == "identity"]
    names = [f"`{row['candidate']}` on {row['data']}" for row in better]
    return f"{', '.join(names)} gained with every seed." if names else "No edit gained with every seed."


def compared_starts(rows: list[dict[str, Any]]) -> str:
    """How often the identity ends above the usual initialisation."""
    means = {(row["data"], row["candidate"], row["start"]): row["mean"] for row in rows}
    pairs = [(means[d, c, "identity"], value) for (d, c, start), value in means.items() if start == "usual"]
    higher = sum(identity > usual for identity, usual in pairs)
    return f"the identity ends above the usual initialisation in {higher} of {len(pairs)} pairs of means"


def page(result: dict[str, Any], insertion: dict[str, Any]) -> str:
    """The page as Markdown."""
    settings = result["settings"]
    few = [name for name, cost in result["costs"].items() if cost["trained"] < cost["params"]]
    rows = [row for row in result["summary"] if row["candidate"] not in few]
    parts = [
        wrapped(f"- {item['name']}: {outcome([r for r in rows if r['data'] == item['name']], PLAIN)}.", "  ")
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

## Do edits help?

{method(result)}

The score is the accuracy; for scenes, which have several digits, it is the mean average precision of the ten digits.
The table has the mean over the seeds with the least and the most, the mean gain over the net without edits with the
same seed, multiply-adds as a ratio, and the time of a training step as a ratio. The verdict says whether the gain has
the same sign with every seed.

| data | edit | start | score | gain | multiply-adds | step | verdict |
|---|---|---|---|---|---|---|---|
{chr(10).join(scores(result, row) for row in rows)}

In words, for starts at the identity:

{chr(10).join(parts)}

{wrapped(f"{gained(rows)} Between the two starts, {compared_starts(rows)}.")}

The study is small. A run sees {settings["steps"] * settings["batch"]:,} images, and with this number of test images a
difference of {noise(result)} between two runs is chance. It shows what an edit does in the first minutes of
fine-tuning, and not what it gives after a full training. The size of the images differs from that of the pretraining,
so frozen batch norms (`frozen_bn`) hold statistics that do not fit. `timm-ext edit-study --data FOLDER` runs the study
on your own images.

## Training fewer parameters

{few_method()}

| way | parameters that learn | score | gain | kept, MB | gradients and AdamW, MB | step |
|---|---|---|---|---|---|---|
{chr(10).join(frugal(result, name) for name in (PLAIN, *few))}

{few_words(result)}
"""


def scores(result: dict[str, Any], row: dict[str, Any]) -> str:
    """A row of the table of edits."""
    name = row["candidate"]
    shown = name if " " in name else f"`{name}`"
    gmacs = result["costs"][name]["gmacs"] / result["costs"][PLAIN]["gmacs"]
    cells = (row["data"], shown, row["start"], spread(row), f"{row['gain']:+.3f}", f"{gmacs:.2f}x", time(result, name))
    return f"| {' | '.join(cells)} | {'-' if name == PLAIN else row['verdict']} |"


def spread(row: dict[str, Any]) -> str:
    """Mean, least and most."""
    return f"{row['mean']:.3f} ({row['min']:.3f} to {row['max']:.3f})"


def time(result: dict[str, Any], name: str) -> str:
    """Time of a training step over that of the net without edits."""
    return f"{found['ratio']:.2f}x" if (found := result.get("times", {}).get(name)) else "-"


def frugal(result: dict[str, Any], name: str) -> str:
    """A row of the table of ways that train fewer parameters; on the first data set."""
    cost, first = result["costs"][name], result["data"][0]["name"]
    (row,) = (
        r for r in result["summary"] if r["candidate"] == name and r["data"] == first and r["start"] == "identity"
    )
    memory = (f"{size / 1e6:.1f}" for size in (cost["kept"], 12 * cost["trained"]))  # of float32: gradient, two moments
    way = "full fine-tuning" if name == PLAIN else name
    cells = (way, f"{cost['trained']:,}", spread(row), f"{row['gain']:+.3f}", *memory, time(result, name))
    return f"| {' | '.join(cells)} |"


def few_method() -> str:
    """What the ways are, in words."""
    rates = {name: CANDIDATES[name].rate for name in CANDIDATES if CANDIDATES[name].rate != 1}
    text = (
        "The same net, steps and images. `lora` stands for the edit with `freeze_base(model, norms=True)`, which lets "
        "norms learn. PEFT's own wrapper has the same branches and freezes the weights of norms, but not their "
        "statistics. In the last row only the classifier learns, and norms are frozen. The rates were chosen by short "
        f"trials with the first seed: {', '.join(f'{f:g} times the rate for {n}' for n, f in rates.items())}. "
        "Kept is what a step on one batch holds between its forward and backward pass."
    )
    return wrapped(text)


def few_words(result: dict[str, Any]) -> str:
    """What the table shows of the ways, in words."""
    names = [name for name, cost in result["costs"].items() if cost["trained"] < cost["params"]]
    means = {r["candidate"]: r["mean"] for r in reversed(result["summary"]) if r["start"] == "identity"}
    shares = {name: result["costs"][name]["trained"] / result["costs"][PLAIN]["trained"] for name in names}
    text = "; ".join(f"{name} reaches {means[name]:.3f} with {shares[name]:.1%} of the parameters" for name in names)
    return wrapped(f"Full fine-tuning reaches {means[PLAIN]:.3f}; {text}.")


def noise(result: dict[str, Any]) -> str:
    """Two standard deviations of the difference of two accuracies of 0.85."""
    return f"{2 * (2 * 0.85 * 0.15 / result['data'][0]['test']) ** 0.5:.2f}"


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
        base = named_base(item)
        time = f"{ratio:.2f}x on {base}" if (ratio := measured_ratio(base, item)) else "-"
        lines.append(
            f"| `{item}` | {', '.join(item.families)} | {time} | {'yes' if item.merges() else 'no'} | "
            f"{item.evidence} | {left.get(name, '-')} |"
        )
    return "\n".join(lines)


def main(*words: str) -> None:
    """Measure, or join what was measured, and write the page."""
    files = [word for word in words if not word.startswith("--")]
    held = json.loads(STUDY.read_text(encoding="utf-8"))
    if "--times" in words:
        held["times"] = timed()
    elif "--page" not in words:
        parts = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files] or measured()
        held = {**joined(*parts), "times": timed() if not files else held.get("times", {})}
    STUDY.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    insertion = json.loads((HERE / "insertion.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(held, insertion), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
