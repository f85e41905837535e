"""The command `timm-ext`."""

from .main import main

__all__ = ["main"]
