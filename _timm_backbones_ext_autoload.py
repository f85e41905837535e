"""Registers the `ext_*` models as soon as timm is imported, without an import in the user's code.

torch loads the entry points of the group `torch.backends` at the end of `import torch`, and timm imports torch first.
`install` then waits for `timm.models` to be loaded and imports our package. This module stands beside the package, and
not in it, because importing it must not import the package, which imports timm, which is still importing torch.
It uses the standard library only, and whatever goes wrong is one warning: torch and timm must import all the same.
Set TIMM_BACKBONES_EXT_AUTOLOAD=0 to switch it off.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from importlib.util import spec_from_loader

WATCHED = "timm.models"
PACKAGE = "timm_backbones_ext"
WAITING = ("_timm", "edits", "families", "features", "layers", "models", "norm_layer", "registry", "weights")
"""Modules of the package that the registration imports, and that import timm."""


def install() -> None:
    """Entry point: arrange for the models to be registered once timm's own are; a failure is a warning."""
    if os.environ.get("TIMM_BACKBONES_EXT_AUTOLOAD", "1").strip().lower() not in ("0", "false", "off", "no"):
        when_timm_is_loaded(register_or_warn)


def when_timm_is_loaded(call: Callable[[], object]) -> None:
    """Call a function now if timm is loaded, and else as soon as it is; the first one that waits is called."""
    if WATCHED in sys.modules:
        call()
    elif not any(isinstance(finder, Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, Watcher(call))


def register() -> None:
    """Import the modules that register the models."""
    importlib.import_module("timm_backbones_ext.models")


def register_or_warn() -> None:
    """Register the models; a failure is a warning that names the cause."""
    try:
        register()
    except Exception as error:
        message = (
            f"timm-backbones-ext could not register its models ({type(error).__name__}: {error}). "
            "timm works without them; `python -c 'import timm_backbones_ext.models'` shows the whole error, "
            "TIMM_BACKBONES_EXT_AUTOLOAD=0 silences this."
        )
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # warnings are errors here, but importing timm is not to fail for us
            print(message, file=sys.stderr)


class Watcher:
    """Meta path finder that finds nothing itself; it adds a call to the loading of `timm.models`.

    Our own modules that the call imports wait for it too. Otherwise the first of them would import timm, and the call
    would find that module half imported.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The spec that the other finders have for `timm.models`, with a loader that makes the call after it."""
        package, _, rest = name.partition(".")
        if package == PACKAGE and rest.partition(".")[0] in WAITING and WATCHED not in sys.modules:
            importlib.import_module("timm")
            return Imported(sys.modules[name]).offered() if name in sys.modules else None
        if name != WATCHED:
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                self.watch(spec.loader)
                return spec
        return None

    def watch(self, loader: object) -> None:
        """Let a loader make the call once it has executed its module, and be as it was afterwards."""
        execute = loader.exec_module

        def exec_module(module: object) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.call()

        loader.exec_module = exec_module


class Imported:
    """Loader of a module that has been imported while its own import waited; it executes nothing again."""

    def __init__(self, module: object) -> None:
        self.module, self.spec = module, module.__spec__

    def offered(self) -> object:
        """The spec with this loader; the import system takes it from a module that is there already."""
        self.module.__spec__ = spec_from_loader(self.spec.name, self)
        return self.module.__spec__

    def create_module(self, spec: object) -> object:
        """The module that is there."""
        return self.module

    def exec_module(self, module: object) -> None:
        """Give the module its own spec back."""
        self.module.__spec__ = self.spec
