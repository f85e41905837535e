"""Build models on the device `meta` without running their initialisation."""

from collections.abc import Iterable
from typing import Any

from torch.nn import init
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutValues"]

FILLING = {f"{name}_" for name in ("clamp", "erfinv", "normal", "uniform")}
"""In-place operators of initialisations, which torch runs in Python on the device `meta`."""
INITIALISING = {getattr(init, f"{name}_") for name in ("kaiming_normal", "kaiming_uniform", "normal", "uniform")}
"""Functions of `torch.nn.init` that reach a `TorchFunctionMode` as one call."""


class WithoutValues(TorchFunctionMode):
    """A mode in which initialisations of tensors on the device `meta` do nothing.

    Such tensors have no values, but torch computes shapes and dtypes in Python for each step of an initialisation. For
    a ConvNeXt-B this takes longer than all other steps of building it on `meta`.
    """

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in INITIALISING or getattr(func, "__name__", "") in FILLING:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
