"""A photo as the image that a model was trained on: resized, cropped, normalised; by pillow and numpy."""

import math
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["crops", "prepared"]

MODES = {1: "L", 3: "RGB"}
CROPS = ("center", "squash")


def prepared(photo: Any, image: dict[str, Any]) -> np.ndarray:
    """(1, C, H, W) in float32, as timm's transform for evaluation makes it.

    Args:
        photo: A file, or an image of pillow.
        image: The entry "image" of a deployed model's facts.

    Raises:
        ValueError: The model takes other images than photos, or crops in a way that is not known here.
        FileNotFoundError: There is no such file.
        OSError: The file is no picture.
    """
    return _normal(_cropped(_opened(photo, image), tuple(image["size"][1:]), image), image)


def crops(photo: Any, image: dict[str, Any], count: int, seed: int) -> list[np.ndarray]:
    """Random squares of a photo, each (1, C, H, W) in float32; their area is a quarter of the photo's to all of it."""
    from PIL import Image

    opened, (_, height, width) = _opened(photo, image), image["size"]
    by, random = Image.Resampling[image["interpolation"].upper()], np.random.default_rng(seed)
    found = []
    for scale in random.uniform(0.5, 1.0, count):
        side = max(1, int(scale * min(opened.size)))
        left, top = (int(random.integers(0, room - side + 1)) for room in opened.size)
        found.append(_normal(opened.resize((width, height), by, (left, top, left + side, top + side)), image))
    return found


def _opened(photo: Any, image: dict[str, Any]) -> Any:
    """A photo as an image of pillow, in the colours that the model takes."""
    from PIL import Image

    channels = image["size"][0]
    if channels not in MODES:
        raise ValueError(f"a photo has 1 or 3 channels and the model takes {channels}; call it with an array")
    opened = Image.open(photo) if isinstance(photo, (str, Path)) else photo
    return opened.convert(MODES[channels])


def _normal(picture: Any, image: dict[str, Any]) -> np.ndarray:
    """(1, C, H, W): the pixels of a picture with the mean and std of the model."""
    pixels = np.asarray(picture, dtype=np.float32).reshape(*picture.size[::-1], image["size"][0]) / np.float32(255)
    normal = (pixels - np.float32(image["mean"])) / np.float32(image["std"])
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def _cropped(photo: Any, size: tuple[int, int], image: dict[str, Any]) -> Any:
    """The middle of a photo, (H, W) pixels."""
    from PIL import Image

    if image["crop_mode"] not in CROPS or (image["crop_mode"] == "center" and size[0] != size[1]):
        raise ValueError(
            f"the crop {image['crop_mode']!r} for {size[0]} x {size[1]} pixels is not known here; make the array with "
            "timm's transform, and call the model with it"
        )
    by = Image.Resampling[image["interpolation"].upper()]
    height, width = (math.floor(side / image["crop_pct"]) for side in size)
    if image["crop_mode"] == "center":
        height, width = _shorter_side(height, photo)
    resized = photo.resize((width, height), by)
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return resized.crop((left, top, left + size[1], top + size[0]))


def _shorter_side(side: int, photo: Any) -> tuple[int, int]:
    """Height and width of a photo whose shorter side has so many pixels."""
    short, long = sorted(photo.size)
    longer = int(side * long / short)
    return (side, longer) if photo.height <= photo.width else (longer, side)
