"""Custom timm backbones that start as the pretrained models they extend.

Importing this registers the models with timm, at once if timm is loaded and else when it is; it imports neither torch
nor timm by itself. The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

import lazy_loader

from _timm_backbones_ext_autoload import register, when_timm_is_loaded

from ._version import __version__ as __version__

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import a public name."""
    return _load(name)


when_timm_is_loaded(register)
