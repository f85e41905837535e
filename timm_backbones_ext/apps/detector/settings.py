"""The settings of a run of `train.py`, with defaults for each kind of data."""

import re
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Settings", "settings_for"]


@dataclass(frozen=True)
class Settings:
    """The settings of a run; a resumed run must have the same, or more epochs."""

    data: str
    """"digits", "digits:SCENES", or "coco:ROOT"."""
    levels: str
    """First and last P-level of the pyramid: "P3-P7"."""
    out_channels: int
    """Of the pyramid."""
    num_convs: int
    """Convs of each of the two branches of the head."""
    min_size: int
    """Pixels that the shorter side of images is scaled to."""
    max_size: int
    """Largest longer side in pixels after scaling."""
    flip: float
    """Probability of a horizontal flip."""
    epochs: int
    batch_size: int
    """Images per process."""
    lr: float
    """Learning rate of AdamW, with a cosine schedule."""
    backbone: str = "ext_resnet18"
    edits: str | None = None
    start: str | None = None
    """A trained detector to start from: folder or Hub id. New edits start as the identity."""
    pretrained: bool = False
    """Start from the backbone's published weights."""
    freeze_at: int = 0
    """Freeze the backbone up to the maps of stride `2**freeze_at`."""
    sync_bn: bool = False
    """Synchronise batch norms over all processes."""
    weight_decay: float = 0.05
    layer_decay: float | None = None
    """Factor on the learning rate for each layer of the backbone, from its end to the image."""
    clip: float = 1.0
    """Largest norm of all gradients; larger ones are scaled down."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    workers: int = 2
    """Processes that load images, per process that trains."""
    precision: str = "no"
    """"no", "fp16" or "bf16": Accelerate's mixed precision."""
    seed: int = 0


DEFAULTS = {
    "digits": Settings(
        "digits", "P3-P4", 64, 2, min_size=96, max_size=96, flip=0.0, epochs=5, batch_size=8, lr=2e-3, workers=0
    ),
    "coco": Settings("coco", "P3-P7", 256, 4, min_size=800, max_size=1333, flip=0.5, epochs=12, batch_size=4, lr=1e-4),
}


def settings_for(data: str, **changes: Any) -> Settings:
    """The settings for a kind of data, with changes.

    Raises:
        ValueError: The kind of data is unknown, or a number is out of range.
    """
    if not re.fullmatch(r"digits(:[1-9]\d*)?|coco:.+", data):
        raise ValueError(f"data: expected digits, digits:SCENES or coco:ROOT; got {data!r}")
    settings = replace(DEFAULTS[data.partition(":")[0]], data=data, **changes)
    for name in ("epochs", "batch_size", "lr", "clip", "eval_every", "min_size", "out_channels", "num_convs"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name}: expected a number above 0; got {getattr(settings, name)}")
    if settings.start and settings.pretrained:
        raise ValueError("start gives the weights of a whole detector, pretrained those of a backbone: choose one")
    return settings
