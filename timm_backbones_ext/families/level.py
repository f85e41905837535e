"""The feature maps of a model as values: one class for models, pyramids and tables."""

from dataclasses import dataclass

from .._types import Model

__all__ = ["Level", "levels"]


@dataclass(frozen=True)
class Level:
    """One feature map of a model or of a pyramid; it has the attributes of detectron2's `ShapeSpec` too."""

    index: int
    """Position among the maps, finest first, as in `out_indices`."""
    module: str
    """Name of the module whose output the map is; in a pyramid, the key of the map."""
    channels: int
    stride: int
    """Input pixels per pixel of the map."""
    height: int | None = None
    """None, as the width: both depend on the image."""
    width: int | None = None


def levels(model: Model) -> tuple[Level, ...]:
    """The levels of a full timm model."""
    info = model.feature_info
    return tuple(Level(i, item["module"], item["num_chs"], item["reduction"]) for i, item in enumerate(info))
