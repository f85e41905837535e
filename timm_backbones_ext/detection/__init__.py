"""Backbones for detectors: pyramids, and what detectors do to norms and to the first stages."""

from .freezing import freeze_at, group_norm, sync_bn
from .pyramid import Level, Pyramid, pad_to, pyramid

__all__ = ["Level", "Pyramid", "freeze_at", "group_norm", "pad_to", "pyramid", "sync_bn"]
