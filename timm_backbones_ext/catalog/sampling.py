"""Sampling positions of deformable convs, and effective receptive fields. Needs the extra `viz`."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from .._types import Model
from ..layers import DeformConv2d
from .pictures import require_drawable, write_figure

__all__ = ["Taps", "centre", "draw_fields", "draw_offsets", "extent", "opened", "receptive_field", "sampled_taps"]

GRID = (0.2, 0.5, 0.8)  # positions drawn, as parts of height and width


@dataclass(frozen=True)
class Taps:
    """The positions, in pixels of the photo, that one deformable conv reads for some positions of its output."""

    layer: str
    plain: Tensor
    """(positions, taps, 2): y and x without offsets."""
    moved: Tensor
    """(positions, taps, 2): y and x with offsets."""
    masks: Tensor
    """(positions, taps): weights of the taps, 1 in a plain conv."""


def sampled_taps(model: Model, photo: Image.Image) -> list[Taps]:
    """Run a photo through a model and read the offsets of each deformable conv, in the order of execution.

    Args:
        model: In eval mode.
        photo: A square in RGB, as from `load_photo`.

    Raises:
        ValueError: The model has no deformable conv.
    """
    found, handles = [], []
    for name, module in model.named_modules():
        if isinstance(module, DeformConv2d):

            def read(conv: nn.Module, inputs: tuple[Tensor], _: Tensor, name: str = name) -> None:
                found.append(_taps(name, conv, inputs[0], photo.width))

            handles.append(module.register_forward_hook(read))
    if not handles:
        raise ValueError("the model has no deformable conv; the edit dcn adds some: --edits dcn")
    config = timm.data.resolve_data_config({"img_size": photo.width, "crop_pct": 1.0}, model=model)
    try:
        with torch.inference_mode():
            model(timm.data.create_transform(**config)(photo).unsqueeze(0))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _taps(name: str, conv: nn.Module, x: Tensor, side: int) -> Taps:
    assert isinstance(conv, DeformConv2d)
    (height, width), taps = conv.kernel_size, conv.kernel_size[0] * conv.kernel_size[1]
    raw = conv.conv_offset(x)[0]
    rows, columns = ((torch.tensor(GRID) * size).long() for size in raw.shape[1:])
    at = torch.cartesian_prod(rows, columns)
    offsets = raw[: 2 * taps, at[:, 0], at[:, 1]].T.reshape(-1, taps, 2)
    masks = 2 * raw[2 * taps :, at[:, 0], at[:, 1]].T.sigmoid()
    kernel = torch.cartesian_prod(torch.arange(height), torch.arange(width)) * torch.tensor(conv.dilation)
    plain = at[:, None] * torch.tensor(conv.stride) - torch.tensor(conv.padding) + kernel[None]
    scale = side / x.shape[-1]
    return Taps(name, (plain + 0.5) * scale, (plain + offsets + 0.5) * scale, masks)


def draw_offsets(taps: Taps, photo: Image.Image, path: str | Path, *, title: str = "") -> None:
    """Draw the taps of a deformable conv on the photo: hollow where a plain conv reads, filled where this one does."""
    require_drawable(path, overwrite=True)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 7.0), dpi=110)
    axis = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    axis.imshow(photo, extent=(0, photo.width, photo.height, 0))
    for index in range(len(taps.plain)):
        colour = f"C{index}"
        (y, x), (to_y, to_x) = taps.plain[index].numpy().T, taps.moved[index].numpy().T
        axis.plot(np.stack((x, to_x)), np.stack((y, to_y)), color=colour, linewidth=1)
        axis.scatter(x, y, s=22, facecolors="none", edgecolors=colour, linewidths=1)
        axis.scatter(to_x, to_y, s=40 * taps.masks[index].numpy(), color=colour, edgecolors="white", linewidths=0.5)
    axis.set(xlim=(0, photo.width), ylim=(photo.height, 0))
    axis.set_axis_off()
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, weight="bold")
    largest = (taps.moved - taps.plain).norm(dim=-1).max()
    text = f"{taps.layer}: hollow is a plain conv, filled this one (size: its mask); moved up to {largest:.1f} px"
    figure.text(0.02, 0.91, text, fontsize=8)
    write_figure(figure, path)


def receptive_field(model: Model, side: int = 224, samples: int = 4, level: int = -1) -> Tensor:
    """(side, side): the mean absolute gradient of a map's centre with respect to the image, its maximum 1.

    The effective receptive field of https://arxiv.org/abs/1701.04128 (Luo et al. 2016), over random images and random
    directions in the channels.

    Args:
        model: A full model in eval mode.
        side: Pixels of the images.
        samples: Number of images.
        level: Index of the map, as in `feature_info`; the last by default.

    Raises:
        ValueError: There is no such level.
    """
    count = len(model.feature_info)
    if not -count <= level < count:
        raise ValueError(f"no level {level}; there are 0 to {count - 1}")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, model.in_chans, side, side, generator=generator, requires_grad=True)
    y = model.forward_intermediates(x, indices=[level % count], intermediates_only=True)[0]
    centre = y[:, :, y.shape[2] // 2, y.shape[3] // 2]
    (gradient,) = torch.autograd.grad((centre * torch.randn(centre.shape, generator=generator)).sum(), x)
    field = gradient.abs().mean((0, 1))
    return field / field.max().clamp(min=1e-30)


def centre(field: Tensor) -> tuple[int, int]:
    """Row and column of a field's centre of mass."""
    rows, columns = (field.sum(dim) @ torch.arange(len(field), dtype=field.dtype) / field.sum() for dim in (1, 0))
    return round(rows.item()), round(columns.item())


def extent(field: Tensor, share: float = 0.95) -> int:
    """Side in pixels, odd, of the smallest square about the centre of mass that holds a share of the field."""
    row, column = centre(field)
    wanted = share * field.sum()
    for reach in range(len(field)):
        held = field[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        if held.sum() >= wanted:
            return 2 * reach + 1
    return len(field)


def opened(model: Model) -> Model | None:
    """A copy in which zeros of enlarged tensors are random, with the scale of the other values; None without any.

    An edit starts as the identity, so its receptive field shows only if its new weights are not 0.
    """
    base, twin, found = model.lineage.base.state_dict(), copy.deepcopy(model), False
    generator = torch.Generator().manual_seed(0)
    for name, value in twin.named_parameters():
        if name in base and base[name].shape != value.shape and bool((value != 0).any()):
            spread = value.data[value.data != 0].std()
            new = torch.randn(value.shape, generator=generator) * spread
            value.data, found = torch.where(value.data == 0, new, value.data), True
    return twin if found else None


def draw_fields(fields: Mapping[str, Tensor], path: str | Path, *, title: str = "") -> None:
    """Draw receptive fields side by side, in the same logarithmic colours, with the square that holds 95 % of each."""
    require_drawable(path, overwrite=True)
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(3.4 * len(fields) + 0.3, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(fields), squeeze=False)[0]
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        axis.imshow(field.clamp(min=1e-4).numpy(), norm=LogNorm(1e-4, 1), cmap="magma")
        size, (row, column) = extent(field), centre(field)
        corner = column - size / 2, row - size / 2
        axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="white", linestyle=":"))
        axis.set_title(f"{name}\n95 % within {size} px", fontsize=9)
        axis.set_axis_off()
    figure.suptitle(title, fontsize=12, weight="bold")
    write_figure(figure, path)
