"""The law: what a runtime gives is compared with the unedited model in float64, on several sizes."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._types import Model
from .fusion.graphs import listed
from .runtimes import Run

__all__ = ["Reference", "relative"]


class Reference:
    """Images, and what a model gives for them in float64, each map once."""

    def __init__(self, model: Model, images: list[Tensor], order: list[int]) -> None:
        twin = copy.deepcopy(model).to("cpu").double().eval()
        first = [order.index(index) for index in range(max(order) + 1)]
        self.images = [image.numpy() for image in images]
        with torch.inference_mode():
            outputs = [listed(twin(image.double())) for image in images]
        self.outputs = [[maps[index].numpy() for index in first] for maps in outputs]

    @classmethod
    def around(cls, model: Model, example: Tensor, order: list[int], *, dynamic: bool) -> "Reference":
        """The example, and if sizes may change, two more of other sides and of another batch."""
        images = [example]
        if dynamic:
            batch, channels, height, width = example.shape
            generator = torch.Generator().manual_seed(0)
            for shape in ((batch + 1, channels, max(32, height // 2), 64), (1, channels, 64, max(32, width // 2) + 32)):
                images.append(torch.randn(shape, generator=generator))
        return cls(model, images, order)

    def error(self, run: Run | Callable[..., Any]) -> float:
        """Largest difference over all maps, relative to the largest value of the map; infinite if shapes differ."""
        found = 0.0
        for image, expected in zip(self.images, self.outputs, strict=True):
            got = run(image)
            if [np.shape(g) for g in got] != [e.shape for e in expected]:
                return float("inf")
            found = max(found, *(relative(np.asarray(g, np.float64), e) for g, e in zip(got, expected, strict=True)))
        return found


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value that is expected; infinite for NaN."""
    difference = np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30)
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf))
