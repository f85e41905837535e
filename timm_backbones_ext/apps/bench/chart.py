"""The chart of a benchmark: bars of how many times faster than timm each contender is."""

from pathlib import Path
from typing import Any

__all__ = ["draw"]

OURS, PEERS = "#2f6f8f", "#b8b8b8"


def draw(cells: dict[str, dict[str, Any]], file: Path) -> None:
    """Draw a panel of bars per cell, the quartiles as whiskers; the file's suffix is its format: svg, pdf or png."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = max(len(cell["contenders"]) for cell in cells.values())
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(4.2 * columns, (0.9 + 0.28 * rows) * lines), dpi=100, layout="constrained")
    panels = iter(figure.subplots(lines, columns, squeeze=False).flat)
    for (title, cell), axes in zip(cells.items(), panels, strict=False):
        items = sorted(cell["contenders"].items(), key=lambda item: item[1]["times_faster"])
        values = [row["times_faster"] for _, row in items]
        low, high = zip(*(row["spread"] for _, row in items), strict=True)
        whiskers = [
            [v - x for v, x in zip(values, low, strict=True)],
            [x - v for v, x in zip(values, high, strict=True)],
        ]
        colours = [OURS if row["ours"] else PEERS for _, row in items]
        axes.barh([name for name, _ in items], values, xerr=whiskers, color=colours, error_kw={"elinewidth": 0.8})
        axes.axvline(1, color="black", linewidth=0.6)
        axes.set_title(title, fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels:  # those without a cell
        axes.set_axis_off()
    figure.supxlabel("times faster than timm in eager PyTorch", fontsize=9)
    figure.legend(
        handles=[Patch(color=OURS, label="ours"), Patch(color=PEERS, label="peers")], fontsize=8, frameon=False
    )
    with rc_context({"svg.hashsalt": "bench"}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
