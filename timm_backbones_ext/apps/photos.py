"""Photos that scikit-image and scikit-learn carry, and what a net trained on ImageNet sees in them."""

import timm.data
import torch
from PIL import Image
from torch import Tensor

from .._types import Model

__all__ = ["batch_of", "photos", "seen"]


def photos() -> dict[str, Image.Image]:
    """Five photos in RGB, by a word for what they show.

    Raises:
        ImportError: The extra `demo` is not installed.
    """
    try:
        import skimage.data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError(
            f'the photos need the extra demo: pip install "timm-backbones-ext[demo]" ({error})'
        ) from error
    pixels = {"cat": skimage.data.chelsea(), "coffee": skimage.data.coffee(), "rocket": skimage.data.rocket()}
    pixels |= {"palace": load_sample_image("china.jpg"), "flower": load_sample_image("flower.jpg")}
    return {name: Image.fromarray(values) for name, values in pixels.items()}


def batch_of(model: Model, pictures: list[Image.Image]) -> Tensor:
    """(N, 3, H, W): photos under timm's own transform for a model's weights."""
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    return torch.stack([transform(picture) for picture in pictures])


def seen(logits: Tensor, count: int = 5) -> list[list[tuple[str, float]]]:
    """(N, 1000) -> for each photo its most likely classes, by timm's names of them, with their probabilities."""
    names = timm.data.ImageNetInfo("imagenet-1k")
    best = logits.softmax(1).topk(count)
    return [
        [(names.index_to_description(i).split(",")[0], round(p, 3)) for p, i in zip(*row, strict=True)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
