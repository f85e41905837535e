"""int8: the images that a quantiser is calibrated with, and how far its result agrees with the model on others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._types import Model
from .checking import relative
from .exported import Plain
from .fusion.graphs import listed
from .photos import crops
from .runtimes import Run

__all__ = ["Calibration"]

CROPS = 16
"""Of each photo; half of them calibrate, the others are compared."""
LEAST = 8
"""Images; fewer say nothing about agreement."""


@dataclass(frozen=True)
class Calibration:
    """Images for a quantiser, images to compare on, and what the model gives for these."""

    used: list[np.ndarray]
    """(1, C, H, W) each."""
    held_out: list[np.ndarray]
    expected: list[list[np.ndarray]]
    classes: bool
    """Whether the model is a classifier."""
    threshold: float

    @classmethod
    def of(cls, images: Any, model: Model, plain: Plain, facts: dict[str, Any], threshold: float) -> "Calibration":
        """Every second image is used, the others are compared on.

        Args:
            images: (N, C, H, W) in float32, an array or a tensor; or photos, as files or images of pillow.
            model: In eval mode.
            plain: Its graph.
            facts: Its facts.
            threshold: Agreement that is asked for, from 0 to 1.

        Raises:
            ValueError: There are no images, too few, or of a shape that the model does not take.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"expected an agreement from 0 to 1; got {threshold}")
        every = _images(images, facts["image"])
        first = [plain.outputs["order"].index(index) for index in range(max(plain.outputs["order"]) + 1)]
        held_out = every[1::2]
        with torch.inference_mode():
            maps = [listed(model(torch.from_numpy(image))) for image in held_out]
        expected = [[each[index].float().numpy() for index in first] for each in maps]
        classes = plain.outputs["kind"] == "tensor" and bool(facts["classes"])
        return cls(every[::2], held_out, expected, classes, threshold)

    def compare(self, run: Run) -> tuple[float, float]:
        """How far a runtime agrees with the model on the images that were held out, and its error there.

        The agreement is, of a classifier, the share of images whose likeliest class stays; of maps, the mean cosine
        similarity of the map where it is least. The error is the largest difference relative to the largest value of
        its map.
        """
        pairs = [(run(image), maps) for image, maps in zip(self.held_out, self.expected, strict=True)]
        error = max(relative(a, b) for got, maps in pairs for a, b in zip(got, maps, strict=True))
        if self.classes:
            return float(np.mean([got[0].argmax() == maps[0].argmax() for got, maps in pairs])), error
        alike = [[_cosine(a, b) for a, b in zip(got, maps, strict=True)] for got, maps in pairs]
        return float(np.mean(alike, axis=0).min()), error

    @property
    def measure(self) -> str:
        """What the agreement is, in words."""
        return "top-1" if self.classes else "cosine similarity of the maps"


def _images(images: Any, image: dict[str, Any]) -> list[np.ndarray]:
    """The images one by one; several crops of each photo."""
    if images is None:
        raise ValueError("int8 needs calibration=: photos or images (N, C, H, W) like those that the model will see")
    channels = image["size"][0]
    if isinstance(images, Tensor | np.ndarray):
        array = np.asarray(images, dtype=np.float32)
        if array.ndim != 4 or array.shape[1] != channels:
            raise ValueError(f"expected calibration images of the shape (N, {channels}, H, W); got {array.shape}")
        found = [np.ascontiguousarray(each[None]) for each in array]
    elif isinstance(images, Sequence) and not isinstance(images, str):
        found = [crop for seed, photo in enumerate(images) for crop in crops(photo, image, CROPS, seed)]
    else:
        raise ValueError(f"expected calibration images or a list of photos; got {type(images).__name__}")
    if len(found) < LEAST:
        raise ValueError(f"expected at least {LEAST} calibration images; got {len(found)}")
    return found


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))
