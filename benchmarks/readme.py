"""The table of measured figures in the README, made from what the other benchmarks wrote; nothing is measured here."""

from typing import Any

DOCS = "https://timm-backbones-ext.github.io/timm-backbones-ext"


def table(deploy: dict[str, Any], cold: dict[str, Any], memory: dict[str, Any], delta: dict[str, Any]) -> str:
    """Ratios over timm, each with the page that says how it was measured."""
    faster = {name: cell for name, cell in deploy["cells"].items() if not cell["no_difference"]}
    speeds = [(name.split(" "), cell["times_faster"]) for name, cell in faster.items() if name.endswith(" 640")]
    loads = [(name, facts["times_faster"]) for name, facts in cold["models"].items()]
    kept = [(name.removeprefix("ext_"), facts["kept"]["save_memory"]) for name, facts in memory["nets"].items()]
    share = delta["bytes"]["delta file"] / delta["bytes"]["whole file"]
    rows = [
        (
            "feature maps of one image of 640 px on one CPU thread, `fuse`",
            ", ".join(f"{net} {ratio:.2f} times as fast" for (net, _), ratio in speeds),
            "guides/deploy",
        ),
        (
            "loading trained weights from a file",
            ", ".join(f"{net} {ratio:.1f} times as fast" for net, ratio in loads),
            "reference/cold-start",
        ),
        (
            "memory held in training, `save_memory`",
            ", ".join(f"{net} {ratio:.0%}" for net, ratio in kept),
            "guides/training-memory",
        ),
        ("weights of a net tuned by `lora`, shared as a difference", f"{share:.1%} of the whole", "guides/delta"),
    ]
    lines = [f"| {what} | {figure} | [how]({DOCS}/{page}/) |" for what, figure, page in rows]
    versions = deploy["versions"]
    said = f"Beside timm {versions['timm']} with torch {versions['torch']}, outputs compared first."
    return "\n".join(["| | measured | |", "|---|---|---|", *lines, "", said])
