"""Custom timm backbones that start as the pretrained models they extend.

Importing this package registers the models with timm: at once if timm is loaded, otherwise as soon as timm is imported.
The import itself loads neither torch nor timm. `__init__.pyi` lists the public names; each is imported on first use.
"""

import lazy_loader

from _timm_backbones_ext_autoload import register, when_timm_is_loaded

from ._version import __version__ as __version__

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import a public name."""
    return _load(name)


when_timm_is_loaded(register)
