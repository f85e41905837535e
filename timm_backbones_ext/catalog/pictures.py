"""Pictures of the feature maps of a photo, level by level. Needs the extra `viz`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import timm.data
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .._types import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FeatureMap",
    "feature_maps",
    "load_photo",
    "open_photo",
    "photo_maps",
    "principal_colours",
    "require_drawable",
]

FORMATS = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""File suffix -> metadata to leave out, so that the same maps give the same bytes."""
TILES = 4  # channels shown of each level, two by two
COLUMN, TOP, ROW = 2.6, 0.7, 2.5  # inches: width of a level, headline, height of a row
ASIDES = (
    "the photo,\nat the level's\nresolution",
    "all channels:\nprincipal\ncomponents\n1, 2, 3 as red,\ngreen, blue",
    "the four\nchannels that\nvary most;\nlight is high,\ndark is low",
)


@dataclass(frozen=True)
class FeatureMap:
    """One level of one photo."""

    index: int
    stride: int
    """Input pixels per pixel of the map."""
    values: Tensor
    """(C, H, W)"""

    def __str__(self) -> str:
        """The title of the level in a picture."""
        return f"level {self.index} · {' × '.join(map(str, self.values.shape))} · stride {self.stride}"  # noqa: RUF001


def open_photo(path: str | Path) -> Image.Image:
    """A photo in RGB, upright.

    Raises:
        ValueError: The file is not a picture.
    """
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture that can be read ({error})") from error


def load_photo(path: str | Path, size: int = 224) -> Image.Image:
    """The middle square of a photo in RGB, upright, scaled to `size` pixels.

    Raises:
        ValueError: The file is not a picture.
    """
    return ImageOps.fit(open_photo(path), (size, size), Image.Resampling.BICUBIC)


def photo_maps(model: Model, photo: Image.Image, levels: Sequence[int] | None = None) -> list[FeatureMap]:
    """Run a photo, normalised as the model's pretrained config says, through a `features_only` model.

    Args:
        model: Made with `features_only=True`, in eval mode.
        photo: A square in RGB, as from `load_photo`.
        levels: Indices of the levels wanted; all by default.

    Raises:
        ValueError: The model has no such level, does not take photos, or gives no (N, C, H, W) maps.
    """
    info = model.feature_info
    there = list(info.out_indices)
    if missing := [level for level in levels or () if level not in there]:
        raise ValueError(f"no level {', '.join(map(str, missing))}; there are {', '.join(map(str, there))}")
    config = timm.data.resolve_data_config({"img_size": photo.width, "crop_pct": 1.0}, model=model)
    channels = next(weight.shape[1] for weight in model.parameters() if weight.ndim == 4)  # of the first conv
    if channels != 3:
        raise ValueError(f"expected a model for photos (3 channels); this one takes {channels}")
    with torch.inference_mode():
        maps = model(timm.data.create_transform(**config)(photo).unsqueeze(0))
    if any(level.ndim != 4 or level.shape[1] != count for level, count in zip(maps, info.channels(), strict=True)):
        raise ValueError("expected feature maps of shape (N, C, H, W), as convolutional backbones give")
    found = {i: FeatureMap(i, stride, level[0].float()) for i, stride, level in zip(there, info.reduction(), maps)}
    return [found[index] for index in (there if levels is None else levels)]


def principal_colours(values: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, 3) in [0, 1]: the first three principal components as red, green and blue.

    The largest entry of each direction is made positive, so that the same map gives the same picture. The outer 2 % of
    each component are clipped. Missing components of a map with fewer than three channels are grey.
    """
    pixels = values.double().flatten(1).T
    pixels = pixels - pixels.mean(0)
    directions = torch.linalg.svd(pixels, full_matrices=False).Vh[:3]
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    colours = (pixels @ (directions * signs).T).numpy()
    low, high = np.quantile(colours, (0.02, 0.98), axis=0)
    spread = np.where(high - low > 1e-9 * np.abs(colours).max(initial=1e-30), high - low, np.inf)
    scaled = np.where(np.isinf(spread), 0.5, np.clip((colours - low) / spread, 0, 1))
    scaled = np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1])), constant_values=0.5)
    return scaled.reshape(*values.shape[1:], 3)


def require_drawable(path: str | Path, *, overwrite: bool = False) -> None:
    """Check that a picture can be written to a path.

    Raises:
        ImportError: matplotlib is missing; the message has the pip line.
        ValueError: The path does not end in .png, .svg or .pdf.
        FileNotFoundError: Its folder is missing.
        FileExistsError: The file exists, and `overwrite` is false.
    """
    path = Path(path)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f'pictures need the extra viz: pip install "timm-backbones-ext[viz]" ({error})') from error
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {str(path.parent)!r} does not exist; make it first")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name, or overwrite=True")


def feature_maps(maps: Sequence[FeatureMap], image: Image.Image, path: str | Path, *, title: str = "") -> None:
    """Draw feature maps of a photo: one column per level with the photo, the principal components and four channels.

    Args:
        maps: The levels, finest first, as from `photo_maps`.
        image: The photo that they were made from.
        path: PNG, SVG or PDF file to write, replaced if it exists; the same maps give the same bytes.
        title: Headline.

    Raises:
        ImportError: The extra `viz` is not installed.
        ValueError: There is no map, one with values that are not finite, or the file is of another format.
        FileNotFoundError: The folder of the file is missing.
    """
    require_drawable(path, overwrite=True)
    from matplotlib.figure import Figure

    if not maps or not all(level.values.isfinite().all() for level in maps):
        raise ValueError("expected at least one feature map, of finite values")
    aside = 1.25
    size = (max(aside + COLUMN * len(maps), 6.5), TOP + ROW * len(ASIDES))
    figure = Figure(figsize=size, dpi=100)
    for below, text in enumerate(reversed(ASIDES)):
        figure.text(0.12 / size[0], ROW * (below + 0.5) / size[1], text, fontsize=9, va="center", linespacing=1.35)
    for column, level in enumerate(maps):
        _draw_level(figure, aside + COLUMN * column, level, image)
    figure.text(0.12 / size[0], 1 - 0.2 / size[1], title, fontsize=13, weight="bold", va="top")
    write_figure(figure, path)


def write_figure(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the format of the file's suffix; the same figure gives the same bytes."""
    from matplotlib import rc_context

    suffix = Path(path).suffix.lower()
    with rc_context({"svg.hashsalt": "timm-backbones-ext"}):
        figure.savefig(path, format=suffix[1:], metadata=FORMATS[suffix])


def _draw_level(figure: "Figure", left: float, level: FeatureMap, photo: Image.Image) -> None:
    """One column, `left` inches from the left: the coarse photo, the components, the strongest channels."""
    height, width = level.values.shape[1:]
    side, gap = COLUMN - 0.2, 0.06
    photo_at, components_at, tiles_at = (ROW * below + (ROW - side) / 2 for below in (2, 1, 0))
    coarse = np.asarray(photo.resize((width, height), Image.Resampling.BOX))
    _tile(figure, (left, photo_at, side), coarse).set_title(str(level), fontsize=9)
    _tile(figure, (left, components_at, side), principal_colours(level.values))
    small = (side - gap) / 2
    spread = level.values.flatten(1).std(dim=1, correction=0)
    for place, channel in enumerate(spread.argsort(descending=True, stable=True)[:TILES].tolist()):
        corner = (left + place % 2 * (small + gap), tiles_at + (1 - place // 2) * (small + gap), small)
        axis = _tile(figure, corner, level.values[channel].numpy())
        axis.text(0.03, 0.04, str(channel), transform=axis.transAxes, fontsize=7, color="white").set_bbox(
            {"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0}
        )


def _tile(figure: "Figure", corner: tuple[float, float, float], pixels: np.ndarray) -> "Axes":
    """A square picture; `corner` is its left, its bottom and its side in inches."""
    (width, height), (left, bottom, side) = figure.get_size_inches(), corner
    axis = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axis.imshow(pixels, cmap="gray", interpolation="nearest", aspect="auto")
    axis.set_axis_off()
    return axis
