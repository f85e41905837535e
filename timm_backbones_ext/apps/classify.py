"""What a classifier sees in a photo: the likeliest classes, with their probabilities."""

from dataclasses import dataclass

import timm.data
import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset

from .._types import Model

__all__ = ["Guess", "class_names", "classify"]


@dataclass(frozen=True)
class Guess:
    """One class that a photo may show."""

    label: str
    index: int
    probability: float


def class_names(model: Model) -> list[str]:
    """A name per class: those of the model's config, else ImageNet's where the number of classes is ImageNet's."""
    if names := model.pretrained_cfg.get("label_names"):
        return [str(name) for name in names]
    subset = infer_imagenet_subset(model)
    if subset is None:
        return [f"class {index}" for index in range(model.num_classes)]
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(model.num_classes)]


def classify(model: Model, photo: Image.Image, top: int = 5) -> list[Guess]:
    """The likeliest classes of a photo under timm's own transform for the model, the likeliest first.

    Args:
        model: A classifier in eval mode.
        photo: In RGB, of any size.
        top: Number of classes wanted; fewer if the model has fewer.

    Raises:
        ValueError: The model has no classifier, or does not take photos.
    """
    if not model.num_classes:
        raise ValueError("expected a model with a classifier; this one has num_classes=0")
    if model.in_chans != 3:
        raise ValueError(f"expected a model for photos (3 channels); this one takes {model.in_chans}")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    with torch.inference_mode():
        found = model(transform(photo)[None]).float().softmax(-1)[0].topk(min(top, model.num_classes))
    names = class_names(model)
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [Guess(names[index], index, value) for index, value in pairs]
