"""torchvision's FCOS (https://arxiv.org/abs/1904.01355) on a pyramid of ours, for the training of `train.py`."""

from typing import Any

import torch
from torch import Tensor, distributed
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from ...detection.pyramids import Pyramid

__all__ = ["Head", "detector"]


class Head(FCOSHead):
    """torchvision's head, whose loss is a mean over the foreground of all processes.

    torchvision divides by the foreground of the process's own images. With this head, n processes compute the
    gradients of one process with all their images.
    """

    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any) -> dict[str, Tensor]:
        """The losses by name, as torchvision's."""
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        if not distributed.is_available() or not distributed.is_initialized():
            return losses
        own = torch.stack([(matched >= 0).sum() for matched in matched_idxs]).sum().float()
        mean = own.clone()
        distributed.all_reduce(mean)
        scale = own.clamp(min=1) / mean.clamp(min=1) * distributed.get_world_size()
        return {name: loss * scale for name, loss in losses.items()}


def detector(body: Pyramid, num_classes: int, *, min_size: int, max_size: int, num_convs: int = 4) -> FCOS:
    """FCOS on a pyramid.

    Args:
        body: The pyramid; its backbone's mean and std normalise the images.
        num_classes: Classes; labels count from 0, without a label for the background.
        min_size: Pixels that the shorter side of images is scaled to.
        max_size: Largest longer side in pixels after scaling.
        num_convs: Convs of each of the two branches of the head.
    """
    width: Any = body.out_channels
    head, cfg = Head(width, 1, num_classes, num_convs), body.body.pretrained_cfg
    return FCOS(
        body,
        num_classes,
        min_size=min_size,
        max_size=max_size,
        image_mean=list(cfg["mean"]),
        image_std=list(cfg["std"]),
        anchor_generator=AnchorGenerator(tuple((stride,) for stride in body.strides), ((1.0,),) * len(body.strides)),
        head=head,
        size_divisible=body.size_divisibility,
    )
