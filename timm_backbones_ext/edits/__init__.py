"""Edits: changes to a live timm model that start as the identity; one file each."""

import importlib
import pkgutil

from .apply import apply_edits, edit, merge
from .base import EDITS, Edit, list_edits, register_edit
from .text import parse_edits

__all__ = ["EDITS", "Edit", "apply_edits", "edit", "list_edits", "merge", "parse_edits", "register_edit"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
