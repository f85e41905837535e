"""Edits: changes to a live timm model after which it still computes the same; one file each."""

import importlib
import pkgutil

from .apply import apply_edits, edit, merge
from .base import EDITS, Edit, list_edits, register_edit
from .text import parse_edits

__all__ = ["EDITS", "Edit", "apply_edits", "edit", "list_edits", "merge", "parse_edits", "register_edit"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
