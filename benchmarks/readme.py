"""The table of measured figures in the README, made from what the other benchmarks wrote; nothing is measured here."""

from typing import Any

from deploy import figures

DOCS = "https://timm-backbones-ext.github.io/timm-backbones-ext"


def table(deploy: dict[str, Any], cold: dict[str, Any], memory: dict[str, Any], delta: dict[str, Any]) -> str:
    """Ratios over timm, each with the page that says how it was measured."""
    speeds = [(name, cell["timm"]) for name, cell in figures(deploy["cells"]).items()]
    loads = [(name, facts["times_faster"]) for name, facts in cold["models"].items()]
    kept = [(name.removeprefix("ext_"), facts["kept"]["save_memory"]) for name, facts in memory["nets"].items()]
    share = delta["bytes"]["delta file"] / delta["bytes"]["whole file"]
    rows = [
        (
            "feature maps on one CPU thread by the fastest runtime of `deploy_model`, against timm's eager model",
            ", ".join(f"{net} px {ratio:.2f}x" for net, ratio in speeds),
            "guides/deploy",
        ),
        (
            "speed of loading trained weights from a file",
            ", ".join(f"{net} {ratio:.1f}x" for net, ratio in loads),
            "reference/cold-start",
        ),
        (
            "memory held in training by `save_memory`",
            ", ".join(f"{net} {ratio:.0%}" for net, ratio in kept),
            "guides/training-memory",
        ),
        ("weights of a net tuned by `lora`, shared as a difference", f"{share:.1%} of the whole", "guides/delta"),
    ]
    lines = [f"| {what} | {figure} | [how]({DOCS}/{page}/) |" for what, figure, page in rows]
    versions = deploy["versions"]
    said = f"Beside timm {versions['timm']} with torch {versions['torch']}, outputs compared first."
    return "\n".join(["| | measured | |", "|---|---|---|", *lines, "", said])
