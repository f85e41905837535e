"""Backbones for detectors: feature pyramids, conversions of norms, and frozen stages."""

from .freezing import convert_groupnorm, convert_sync_batchnorm, freeze_at
from .pyramids import Pyramid, pad_to, pyramid

__all__ = ["Pyramid", "convert_groupnorm", "convert_sync_batchnorm", "freeze_at", "pad_to", "pyramid"]
