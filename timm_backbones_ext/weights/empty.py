"""Models without memory, built without the initialisation that would be thrown away."""

from collections.abc import Iterable
from typing import Any

from torch.nn import init
from torch.overrides import TorchFunctionMode

__all__ = ["WithoutValues"]

FILLING = {f"{name}_" for name in ("clamp", "erfinv", "normal", "uniform")}
"""In-place operators of initialisations that torch runs in Python on the device `meta`."""
INITIALISING = {getattr(init, f"{name}_") for name in ("kaiming_normal", "kaiming_uniform", "normal", "uniform")}
"""Functions that hand themselves to a mode as a whole."""


class WithoutValues(TorchFunctionMode):
    """Within it, tensors on the device `meta` are not filled.

    They have no values, yet torch computes shapes and dtypes in Python for each step of an initialisation. For a
    ConvNeXt-B that takes longer than all else of building it on `meta`.
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
