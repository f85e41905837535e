"""Diagrams: the levels of a pyramid, and an edited block with its old and new modules. Needs the extra `viz`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from .._types import Model
from ..families import Level
from ..families.layout import blocks
from .pictures import require_drawable, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Floor", "draw_house", "draw_pyramid", "floors"]

COLOURS = {"kept": "#d9d9de", "replaced": "#ffd28a", "added": "#a9dfb0"}


@dataclass(frozen=True)
class Floor:
    """One module of an edited block."""

    name: str
    before: str | None
    """Class of the module in the base; None if the base lacks it."""
    after: str
    new: tuple[str, ...]
    """Tensors that the base lacks or has in another shape: name, shape, and whether all values are zero."""

    @property
    def kind(self) -> str:
        """ "kept", "replaced" or "added"."""
        if self.before is None:
            return "added"
        return "replaced" if self.new or self.before != self.after else "kept"


def floors(model: Model) -> tuple[str, list[Floor]]:
    """The first block that edits changed, and its modules in order.

    Raises:
        ValueError: The model has no edits, or none that changes a module.
    """
    if not getattr(model, "edits", ()):
        raise ValueError("expected an edited model; give a name with edits, or --edits")
    base, modules = dict(model.lineage.base.named_modules()), dict(model.named_modules())
    changed = [name for name, module in modules.items() if _changed(module, base.get(name))]
    if not changed:
        raise ValueError(f"{', '.join(model.edits)} changes no module that could be drawn")
    names = [name for name, _ in blocks(model)]
    block = next((name for name in names for item in changed if f"{item}.".startswith(f"{name}.")), changed[0])
    inside = {name: item for name, item in modules.items() if f"{name}.".startswith(f"{block}.") and _drawn(item)}
    return block, [_floor(name.removeprefix(f"{block}."), item, base.get(name)) for name, item in inside.items()]


def _drawn(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(own) or (not list(module.children()) and not isinstance(module, nn.Identity))


def _changed(module: nn.Module, before: nn.Module | None) -> bool:
    return _drawn(module) and (before is None or type(before) is not type(module) or bool(_new(module, before)))


def _new(module: nn.Module, before: nn.Module | None) -> tuple[str, ...]:
    old = {} if before is None else {name: value.shape for name, value in before.named_parameters(recurse=False)}
    found = []
    for name, value in module.named_parameters(recurse=False):
        if old.get(name) != value.shape:
            zeros = bool((value == 0).all()), bool((value == 0).any())
            said = "zero" if zeros[0] else "new entries zero" if name in old and zeros[1] else "not zero"
            found.append(f"{name} {' x '.join(map(str, value.shape))}: {said}")
    return tuple(found)


def _floor(name: str, module: nn.Module, before: nn.Module | None) -> Floor:
    return Floor(name, None if before is None else type(before).__name__, type(module).__name__, _new(module, before))


def draw_house(block: str, house: Sequence[Floor], path: str | Path, *, title: str = "") -> None:
    """Draw a block before and after its edit: kept modules grey, replaced ones orange, added ones green."""
    require_drawable(path, overwrite=True)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.1 + 0.38 * len(house)), dpi=110)
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axis.set(xlim=(0, 9), ylim=(len(house) + 1.6, -0.8))
    axis.set_axis_off()
    axis.text(0.1, -0.4, f"{title}  ·  block {block}", fontsize=11, weight="bold", va="center")
    axis.text(0.1, 0.2, "before", fontsize=9)
    axis.text(3.1, 0.2, "after", fontsize=9)
    for row, floor in enumerate(house):
        if floor.before is not None:
            _box(axis, 0.1, row, 2.7, "kept", f"{floor.name}  {floor.before}")
        _box(axis, 3.1, row, 2.7, floor.kind, f"{floor.name}  {floor.after}")
        axis.text(6.0, row + 0.7, "\n".join(floor.new), fontsize=7.5, va="center")
    for column, (kind, words) in enumerate(
        {"kept": "was there, unchanged", "replaced": "was there, replaced", "added": "was added"}.items()
    ):
        _box(axis, 0.1 + 2.9 * column, len(house) + 0.35, 2.7, kind, words)
    write_figure(figure, path)


def _box(axis: "Axes", left: float, row: float, width: float, kind: str, text: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch((left + 0.05, row + 0.45), width - 0.1, 0.5, boxstyle="round,pad=0.02", linewidth=0.6)
    shape.set(facecolor=COLOURS[kind], edgecolor="#666666")
    axis.add_patch(shape)
    axis.text(left + width / 2, row + 0.7, text, fontsize=7.5, ha="center", va="center")


def draw_pyramid(
    body: Sequence[Level], maps: Mapping[str, Level], path: str | Path, *, side: int = 640, title: str = ""
) -> None:
    """Draw the levels of a backbone on the left and the maps of its pyramid on the right, the coarsest on top.

    Args:
        body: Levels of the backbone.
        maps: Maps of the pyramid by name.
        path: PNG, SVG or PDF file.
        side: Pixels of the image whose maps are drawn.
        title: Headline.
    """
    require_drawable(path, overwrite=True)
    from matplotlib.figure import Figure

    strides = sorted({level.stride for level in (*body, *maps.values())}, reverse=True)
    figure = Figure(figsize=(9, 1.0 + 0.5 * len(strides)), dpi=110)
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axis.set(xlim=(0, 9), ylim=(len(strides) + 0.8, -0.9))
    axis.set_axis_off()
    axis.text(0.1, -0.5, f"{title}, maps of an image of {side} x {side}", fontsize=11, weight="bold", va="center")
    for row, stride in enumerate(strides):
        axis.text(0.1, row + 0.7, f"stride {stride}\n{side // stride} x {side // stride}", fontsize=8, va="center")
        width = 3.4 - 1.6 * (len(strides) - 1 - row) / len(strides)  # coarser maps are narrower
        columns = [
            (3.0, "kept", [f"{level.module}: {level.channels} channels" for level in body if level.stride == stride]),
            (7.0, "added", [f"{key}: {item.channels} channels" for key, item in maps.items() if item.stride == stride]),
        ]
        for middle, kind, texts in columns:
            if texts:
                _box(axis, middle - width / 2, row, width, kind, "; ".join(texts))
    write_figure(figure, path)
