"""How fast the feature maps of five models are in every runtime, as timm gives them and as this package deploys them.

    python benchmarks/deploy.py [MODEL ...]        all models take about 15 minutes on a quiet machine
    python benchmarks/deploy.py --page             writes the page anew

One image, one thread. It is `timm-ext bench` with the targets of this project beside the figures. After each model it
writes benchmarks/deploy.json and the tables in docs/guides/deploy.md; cells that are not measured again stay.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import timm
import torch

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.bench.contenders import Contender, Field
from timm_backbones_ext.apps.bench.measuring import Load, bench, best, surroundings
from timm_backbones_ext.deploy.measuring import interleaved, rounds_for
from timm_backbones_ext.testing import calibrate

RUNTIMES = ("onnxruntime", "openvino", "ncnn")
PEERS = ("timm", *RUNTIMES, "mnn")
SECONDS = 20.0
TABLE = (
    ("resnet34", (224, 640), PEERS, ("float32",)),
    ("resnet50", (224, 640), PEERS, ("float32", "bfloat16")),
    ("vgg16", (224,), PEERS, ("float32",)),
    ("convnext_tiny", (224,), PEERS, ("float32", "bfloat16")),
    ("convnext_tiny", (640,), ("timm", "onnxruntime", "openvino"), ("float32", "bfloat16")),  # ncnn takes half a minute
    ("efficientnet_b0", (224, 640), PEERS, ("float32",)),
)
"""Models, sides, what they are compared with, dtypes."""
PAIR = ("resnet50", "ext_resnet50_dcn")
FUSED = {
    "resnet34": {224: 1.4, 640: 1.65},
    "resnet50": {224: 1.35, 640: 1.3},
    "vgg16": {224: 2.5},
    "convnext_tiny": {224: 1.08, 640: 1.15},
    "efficientnet_b0": {224: 1.4, 640: 1.6},
}
"""Targets of `fuse`: times faster than timm."""
NEVER_BELOW, BESIDE_ONNX, BESIDE_TIMM, DCN = 0.97, 1.25, 1.9, 1.3
BFLOAT16 = {"best float32": 1.6, "timm": 2.6}
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "deploy.md"
RESULT = Path(__file__).with_suffix(".json")
BEGIN, END = "<!-- table: benchmarks/deploy.py -->", "<!-- end of table -->"


def maps(name: str) -> Any:
    """The feature maps of a model with random weights.

    No branch is silent, and residual branches are smaller than what they are added to, as those of trained nets are:
    else rounding grows from block to block.
    """
    torch.manual_seed(0)
    model = calibrate(timm.create_model(name))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith(("bn3.weight", "gamma")):
                weight.mul_(0.3)
    return tbx.wrap(model, "list").eval()


def pair(limits: dict[str, float]) -> dict[str, Any]:
    """The deployed model with deformable convs beside the deployed plain one, in one run, at 224 px."""
    image = torch.randn(1, 3, 224, 224)
    with tempfile.TemporaryDirectory() as scratch:
        calls, errors = {}, {}
        for name in PAIR:
            field = Field(maps(name), [image], Path(scratch, name), 1)
            for found in field.contenders(RUNTIMES):
                if isinstance(found, Contender) and found.ours:
                    calls[f"{name} {found.name}"] = partial(found.run, image.numpy())
                    errors[f"{name} {found.name}"] = found.error
        timings = interleaved(calls, rounds_for(calls, SECONDS))
    rows = {
        name: {"ms": float(f"{1e3 * timing.median:.4g}"), "error": float(f"{errors[name]:.1e}")}
        for name, timing in timings.items()
    }
    plain, edited = (min(row["ms"] for key, row in rows.items() if key.startswith(f"{name} ")) for name in PAIR)
    return {"contenders": rows, "times_slower": round(edited / plain, 2), "target": DCN}


def ratio(cell: dict[str, Any], slow: str | None, fast: str | None) -> float | None:
    """How many times faster one contender of a cell is than another."""
    if slow is None or fast is None:
        return None
    return cell["contenders"][slow]["ms"] / cell["contenders"][fast]["ms"]


def figures(cells: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By cell, what the targets are about."""
    found = {}
    for name, cell in cells.items():
        ours, peer = best(cell, ours=True), best(cell, ours=False)
        low = best(cell, ours=True, dtype="bfloat16")
        onnx = "onnxruntime" if "onnxruntime" in cell["contenders"] else None
        found[name] = {
            "fuse": ratio(cell, "timm", "ours: eager" if "ours: eager" in cell["contenders"] else None),
            "peer": ratio(cell, peer, ours),
            "onnx": ratio(cell, onnx, ours),
            "timm": ratio(cell, "timm", ours),
            "low": ratio(cell, ours, low),
            "low_timm": ratio(cell, "timm", low),
        }
    return found


def table(result: dict[str, Any]) -> str:
    """The cells as Markdown, the targets beside them."""
    machine, versions, cells = result["machine"], result["versions"], result["cells"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    limits = ", ".join(f"{name} {speed:,.0f}" for name, speed in machine["ceiling"].items())
    vectors = ", ".join(machine["vectors"])
    lines = [
        f"{machine['processor']} ({vectors}), one thread of {machine['cores']}; {packages}. The machine's own speed, "
        f"in 1e9 operations per second of square matrix products and 1e9 bytes per second: {limits}.",
        "",
        "| model, side | timm, ms | best peer | best of ours | ours / peer | ours / timm | `fuse` / timm | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    facts = figures(cells)
    for name, cell in cells.items():
        model, side = name.rsplit(" ", 1)
        rows, each = cell["contenders"], facts[name]
        peer, ours = best(cell, ours=False), best(cell, ours=True)
        lines.append(
            f"| {name} | {rows['timm']['ms']} | {peer}, {rows[peer]['ms']} | {ours.removeprefix('ours: ')}, "
            f"{rows[ours]['ms']} | {_against(each['peer'], NEVER_BELOW)} | {each['timm']:.2f} | "
            f"{_against(each['fuse'], FUSED[model][int(side)])} | {cell['load']} |"
        )
    mean = {key: geometric_mean([each[key] for each in facts.values() if each[key]]) for key in ("onnx", "timm")}
    lines += [
        "",
        f"Geometric means: {_against(mean['onnx'], BESIDE_ONNX)} times faster than ONNX Runtime given timm's graph, "
        f"{_against(mean['timm'], BESIDE_TIMM)} times faster than timm. A figure below its target has the target after "
        "it. All contenders, with quartiles and errors, are in `benchmarks/deploy.json`.",
    ]
    low = {name: each for name, each in facts.items() if each["low"]}
    if low:
        lines += ["", "| in bfloat16 | ms | beside the best float32 | beside timm | error |", "|---|---|---|---|---|"]
    for name, each in low.items():
        row = cells[name]["contenders"][best(cells[name], ours=True, dtype="bfloat16")]
        lines.append(
            f"| {name} | {row['ms']} | {_against(each['low'], BFLOAT16['best float32'])} | "
            f"{_against(each['low_timm'], BFLOAT16['timm'])} | {row['error']:.0e} |"
        )
    if "pair" in result:
        slower = result["pair"]["times_slower"]
        missed = "" if slower <= DCN else f" (target {DCN})"
        lines += ["", f"`{PAIR[1]}` takes {slower:.2f}{missed} times as long as `{PAIR[0]}`, both deployed, at 224 px."]
    return "\n".join(lines)


def _against(value: float, target: float) -> str:
    return f"{value:.2f}" if round(value, 2) >= target else f"{value:.2f} (target {target})"


def write(result: dict[str, Any]) -> None:
    """Write the JSON and the page."""
    order = [f"{name} {side}" for name, sides, *_ in TABLE for side in sides]
    result["cells"] = {name: result["cells"][name] for name in order if name in result["cells"]}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page()


def page() -> None:
    """Write the tables of the page."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(result)}\n\n{END}{tail}", encoding="utf-8")


def main(names: list[str]) -> None:
    """Measure, print and write."""
    result = json.loads(RESULT.read_text(encoding="utf-8")) if names and RESULT.exists() else {"cells": {}}
    result |= surroundings(1)
    limits = result["machine"]["ceiling"]
    for name, sides, against, dtypes in TABLE:
        if not names or name in names:
            for side, cell in bench(maps(name), Load(sides, 1, 1, dtypes, SECONDS), against, limits):
                result["cells"][f"{name} {side}"] = cell
                print(name, side, json.dumps(cell["contenders"]), flush=True)
            write(result)
    if not names or PAIR[1] in names:
        result["pair"] = pair(limits)
        write(result)


if __name__ == "__main__":
    page() if sys.argv[1:] == ["--page"] else main(sys.argv[1:])
