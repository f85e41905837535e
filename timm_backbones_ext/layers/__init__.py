"""Modules that timm.layers lacks."""

from .deform import DeformConv2d
from .frozen import FrozenBatchNorm2d

__all__ = ["DeformConv2d", "FrozenBatchNorm2d"]
