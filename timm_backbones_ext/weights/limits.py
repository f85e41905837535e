"""A limit on the size of a model while it is built, for configs from untrusted repos.

torch calls a hook for each module, parameter or buffer that is registered, so the limit holds for every architecture
and all arguments.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ..errors import HubError
from .files import CONFIG

__all__ = ["bounded"]

MODULES = 8_000
"""timm 1.0.31's resnetrs420 has 2,540, more than its other large models."""
PARAMETERS = 20_000_000_000
"""vit_7b_patch16_dinov3 has 6.7e9."""
BUFFERS = 250_000_000
"""Elements in buffers, which take memory but may not be in the file; beit_large_patch16_512 has 25,000,000."""


@contextmanager
def bounded(place: str) -> Generator[None]:
    """Raise an error while a model is built if it is larger than any backbone.

    Args:
        place: Repo or folder of its config, for the message.

    Raises:
        HubError: The model exceeds a limit; the message says which.
    """
    counts, builder = {"modules": 0, "parameters": 0, "numbers in buffers": 0}, threading.get_ident()

    def count(what: str, number: int, limit: int) -> None:
        if threading.get_ident() != builder:
            return
        counts[what] += number
        if counts[what] > limit:
            raise HubError(
                f"{place}: {CONFIG} describes a model with more than {limit:,} {what}, and no backbone has so many; "
                "nothing was loaded"
            )

    def module(_: nn.Module, __: str, value: nn.Module | None) -> None:
        count("modules", value is not None, MODULES)

    def parameter(_: nn.Module, __: str, value: nn.Parameter | None) -> None:
        count("parameters", 0 if value is None else value.numel(), PARAMETERS)

    def buffer(_: nn.Module, __: str, value: Tensor | None) -> None:
        count("numbers in buffers", 0 if value is None else value.numel(), BUFFERS)

    handles = [
        register_module_module_registration_hook(module),
        register_module_parameter_registration_hook(parameter),
        register_module_buffer_registration_hook(buffer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
