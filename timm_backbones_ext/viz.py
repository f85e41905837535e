"""Pictures of feature maps: what a backbone sees of a photo, level by level."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor

from ._types import Model

__all__ = ["feature_maps", "load_photo", "principal_colours"]

CHANNELS = 4


def load_photo(path: str | Path, model: Model, size: int) -> Tensor:
    """(1, C, size, size): a photo, cut to a square and normalised as the model's pretrained config says.

    Raises:
        ValueError: The file is no picture, or the model does not take three channels.
    """
    if model.in_chans != 3:
        raise ValueError(f"expected a model for photos (3 channels); this one takes {model.in_chans}")
    config = timm.data.resolve_data_config({"img_size": size, "crop_pct": 1.0}, model=model, verbose=False)
    return timm.data.create_transform(**config)(_open(path)).unsqueeze(0)


def _open(path: str | Path) -> Image.Image:
    try:
        return Image.open(path).convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is no picture that can be read ({error})") from error


def principal_colours(level: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, 3) in [0, 1]: the first three principal components as red, green and blue.

    Their signs are fixed, the largest entry of each direction being positive, so the same map gives the same picture.
    """
    pixels = level.double().flatten(1).T
    pixels = pixels - pixels.mean(0)
    _, _, directions = torch.linalg.svd(pixels, full_matrices=False)
    directions = directions[:3]
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    colours = pixels @ (directions * signs).T
    low, high = colours.quantile(0.02, dim=0), colours.quantile(0.98, dim=0)
    scaled = ((colours - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    missing = 3 - scaled.shape[1]
    scaled = torch.cat([scaled, scaled.new_full((len(scaled), missing), 0.5)], dim=1) if missing > 0 else scaled
    return scaled.view(*level.shape[1:], 3).numpy()


def feature_maps(
    maps: Sequence[Tensor], strides: Sequence[int], photo: str | Path, path: str | Path, *, title: str = ""
) -> None:
    """Draw a photo and its feature maps: principal components of each level, and its most varied channels.

    Args:
        maps: (1, C, H, W) each, finest first.
        strides: Input pixels per pixel of each map.
        photo: The picture they were made from.
        path: PNG file to write.
        title: Headline.

    Raises:
        ImportError: The extra `viz` is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'{error}. Pictures need: pip install "timm-backbones-ext[viz]"') from error
    figure = Figure(figsize=(2.1 * (2 + CHANNELS), 2.25 * len(maps) + 0.7), layout="constrained")
    axes = figure.subplots(len(maps), 2 + CHANNELS, squeeze=False)
    square = _open(photo)
    side = min(square.size)
    left, top = (square.width - side) // 2, (square.height - side) // 2
    square = square.crop((left, top, left + side, top + side))
    for row, (level, stride) in enumerate(zip(maps, strides, strict=True)):
        _draw_level(axes[row], level[0].float(), square, f"level {row}: {_shape(level)}, stride {stride}")
    for axis, head in zip(axes[0], ("photo", "principal components", *["strong channels"] * CHANNELS), strict=True):
        axis.set_title(head, fontsize=9)
    figure.suptitle(title, fontsize=12)
    figure.savefig(path, dpi=110)


def _shape(level: Tensor) -> str:
    return " x ".join(map(str, level.shape[1:]))


def _draw_level(axes: np.ndarray, level: Tensor, photo: Image.Image, label: str) -> None:
    """One row: the photo at the size of the map, the components, the channels that vary most over the picture."""
    height, width = level.shape[1:]
    axes[0].imshow(photo.resize((width, height), Image.Resampling.BOX), interpolation="nearest")
    axes[0].set_ylabel(label.replace(": ", "\n").replace(", ", "\n"), fontsize=8, rotation=0, ha="right", va="center")
    axes[1].imshow(principal_colours(level), interpolation="nearest")
    spread = level.flatten(1).std(dim=1)
    for axis, channel in zip(axes[2:], spread.argsort(descending=True)[:CHANNELS].tolist(), strict=False):
        axis.imshow(level[channel].numpy(), cmap="magma", interpolation="nearest")
        axis.set_xlabel(f"channel {channel}", fontsize=7)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
