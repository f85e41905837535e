"""The named variants, one file per family; importing this package registers them with timm."""

from . import ext_resnet

__all__ = ["ext_resnet"]
