"""What every edit costs in time: a forward pass of the edited model over that of its base.

    python benchmarks/edits.py [ROUNDS [EDIT ...]]

For each edit: outputs are compared first, in float64, then both models run in turn on the same image, batch 1, float32;
the median of the ratios counts. With EDITs, only these are measured; `depthwise_dcn` is what `dcn` would cost on
depthwise convs, where it is left out. Writes timm_backbones_ext/catalog/costs.json, which `timm-ext edits` reads, and
docs/reference/costs.md.
"""

import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.catalog.costs import RATIOS, cost, named_base
from timm_backbones_ext.families import depthwise_convs
from timm_backbones_ext.layers import DeformConv2d

SIDE, SMALL = 224, 64
"""Pixels at which models are timed, and at which their outputs are compared, in float64."""
LEFT_OUT, DEPTHWISE = "depthwise_dcn", ("efficientnet_b0", "convnext_tiny")
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "costs.md"


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """One forward pass."""
    start = time.perf_counter()
    model(x)
    return time.perf_counter() - start


def ratio(plain: nn.Module, edited: nn.Module, rounds: int, sampling: int = 1) -> float:
    """Time of the edited model over that of its base: the median over rounds in which both run."""
    x = testing.image(edited, SMALL, SMALL).double()
    expected, got = testing.outputs(plain.double(), x[:, :3]), testing.outputs(edited.double(), x)
    if (error := testing.largest(got, expected, sampling=sampling)) > 1e-8:
        sys.exit(f"outputs differ by {error:.1e}, relative, so there is nothing to time")
    plain, edited, x = plain.float(), edited.float(), testing.image(edited, SIDE, SIDE)
    seconds(edited, x), seconds(plain, x[:, :3])  # warm up
    times = [seconds(edited, x) / seconds(plain, x[:, :3]) for _ in range(rounds)]
    return round(statistics.median(times), 2)


def pair(base: str, change: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A base and the changed form of it."""
    plain = testing.calibrate(timm.create_model(base)).eval()
    return plain, change(copy.deepcopy(plain)).eval()


def depthwise_dcn(model: nn.Module) -> nn.Module:
    """Deformable convs for all depthwise ones, which is no edit."""
    for name, conv in list(depthwise_convs(model)):
        model.set_submodule(name, DeformConv2d.replacing(conv))
    return model


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
    if not result.get(LEFT_OUT):
        return "\n".join(lines) + "\n"
    left_out = " and ".join(f"{facts['time_ratio']:.1f}x on {base}" for base, facts in result[LEFT_OUT].items())
    lines += [
        "",
        "`dcn` is left out for the depthwise convs of EfficientNet and ConvNeXt. It would be exact there too, but not",
        f"worth its cost: a forward pass would take {left_out}. torchvision's",
        "deformable conv computes a product for each group, here for each channel, and a dense conv makes the offsets.",
    ]
    return "\n".join(lines) + "\n"


def main(rounds: int = 21, *names: str) -> None:
    """Measure, write and print."""
    held = json.loads(RATIOS.read_text(encoding="utf-8")) if names else {"edits": {}}
    with torch.inference_mode():
        for name in [name for name in names or tbx.EDITS if name != LEFT_OUT]:
            (item,) = tbx.parse_edits(tbx.EDITS[name].example)
            for base in (named_base(item, family) for family in item.families):
                models = pair(base, lambda model, item=item: tbx.edit(model, item))
                held["edits"][f"{base} + {item}"] = {"time_ratio": ratio(*models, rounds, item.sampling)}
                print(base, item, held["edits"][f"{base} + {item}"], flush=True)
        if not names or LEFT_OUT in names:
            held[LEFT_OUT] = {base: {"time_ratio": ratio(*pair(base, depthwise_dcn), rounds)} for base in DEPTHWISE}
            print(LEFT_OUT, held[LEFT_OUT], flush=True)
    order = list(tbx.EDITS)
    result = {
        "edits": dict(
            sorted(held["edits"].items(), key=lambda entry: order.index(entry[0].split(" + ")[1].split("(")[0]))
        ),
        LEFT_OUT: held.get(LEFT_OUT, {}),
        "rounds": rounds,
        "side": SIDE,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
    }
    RATIOS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
