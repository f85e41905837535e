"""timm's model families, one file each. To add a family, add one file here."""

import importlib
import pkgutil

from .base import Family
from .layout import FAMILIES, blocks, depthwise_convs, family_of, first_conv, initialise, layers
from .level import Level, levels

__all__ = [
    "FAMILIES",
    "Family",
    "Level",
    "blocks",
    "depthwise_convs",
    "family_of",
    "first_conv",
    "initialise",
    "layers",
    "levels",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
