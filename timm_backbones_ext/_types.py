"""Types that the annotations of this package use."""

from typing import Any, TypeAlias

__all__ = ["Model"]

Model: TypeAlias = Any
"""A timm model: an `nn.Module` with timm's attributes. `nn.Module` itself lets checkers believe that any attribute is
a tensor or a module, so that all uses of `pretrained_cfg`, `in_chans` or `feature_info` would look wrong to them."""
