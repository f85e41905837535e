"""What the usual initialisation of a module is, where ours starts as the identity."""

import torch
from torch import nn

from timm_backbones_ext.layers.deform import DeformConv2d

__all__ = ["masks_at_half"]


def masks_at_half(model: nn.Module) -> None:
    """Start the masks of all deformable convs at one half, as sigmoid(0) does in the paper and in mmcv."""
    for layer in model.modules():
        if isinstance(layer, DeformConv2d):
            *_, masks = layer.conv_offset.bias.chunk(3)  # beside the offsets across and down
            nn.init.constant_(masks, torch.logit(torch.tensor(0.25)).item())  # ours are 2 * sigmoid
