"""Modules that timm.layers lacks."""

from .deform import DeformConv2d
from .frozen import FROZEN, FrozenBatchNorm2d, FrozenBatchNormAct2d

__all__ = ["FROZEN", "DeformConv2d", "FrozenBatchNorm2d", "FrozenBatchNormAct2d"]
