"""What a faster depthwise conv could bring: ConvNeXt fused as it is, and fused without its depthwise convs.

    python benchmarks/depthwise.py [ROUNDS]

The second model computes something else and exists nowhere; its time is a lower bound for any kernel. Both run in turn,
one image of 640 px, one thread, float32. Writes benchmarks/depthwise.json and a table in docs/guides/deploy.md.
"""

import json
import sys
from functools import partial
from pathlib import Path

import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext.deploy.machine import machine
from timm_backbones_ext.deploy.measuring import interleaved
from timm_backbones_ext.testing import calibrate

NAMES, SIDE = {"convnext_tiny": 1.25, "ext_convnext_tiny_k13": 1.5}, 640
"""Models with the speed beside timm's eager model that would pay for a kernel of our own."""
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "deploy.md"
RESULT = Path(__file__).with_suffix(".json")
BEGIN, END = "<!-- table: benchmarks/depthwise.py -->", "<!-- end of table -->"


def without(fused: nn.Module) -> nn.Module:
    """A fused model whose depthwise convs are gone."""
    for name, _ in list(fused.named_modules()):
        if name.endswith("conv_dw"):
            fused.set_submodule(name, nn.Identity())
    return fused


def row(name: str, rounds: int) -> dict[str, float]:
    """Times of one model."""
    torch.manual_seed(0)
    model = tbx.wrap(calibrate(timm.create_model(name)), "list").eval()
    x = torch.randn(1, 3, SIDE, SIDE)
    calls = {
        "timm": partial(model, x),
        "fused": partial(tbx.fuse(model), x),
        "bare": partial(without(tbx.fuse(model)), x),
    }
    for call in calls.values():
        call()
    times = interleaved(calls, rounds)
    return {
        **{f"{key}_ms": float(f"{1e3 * each.median:.4g}") for key, each in times.items()},
        "fused_faster": round(times["fused"].times_faster, 2),
        "bound": round(times["bare"].times_faster, 2),
        "wanted": NAMES[name],
    }


def table(result: dict) -> str:
    """The rows as Markdown."""
    lines = [
        f"{result['machine']['processor']}, one thread, {SIDE} px, {result['rounds']} rounds.",
        "",
        "| model | timm, ms | `fuse`, ms | times faster | with depthwise convs that take no time | wanted |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {each['timm_ms']} | {each['fused_ms']} | {each['fused_faster']:.2f} | {each['bound']:.2f} | "
        f"{each['wanted']} |"
        for name, each in result["models"].items()
    ]
    return "\n".join(lines)


def main(rounds: int = 7) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        models = {name: row(name, rounds) for name in NAMES}
    result = {"models": models, "rounds": rounds, "machine": machine()}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(result)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
