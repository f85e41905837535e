"""Types for the annotations of this package. At run time they import nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = ["Model"]

if TYPE_CHECKING:
    from torch import Tensor, nn

    class TimmModel(nn.Module):
        """What this package uses of a timm model; timm has no class of its own for it.

        Children such as `layer4` are looked up by name and have the type `Any`. With plain `nn.Module`, type checkers
        take every attribute for a tensor or a module.
        """

        pretrained_cfg: dict[str, Any]
        default_cfg: dict[str, Any]
        feature_info: Any  # a list of dicts in a full model, a FeatureInfo in a feature model
        in_chans: int
        num_classes: int
        num_features: int
        edits: tuple[str, ...]  # only in an edited model, as the next two
        lineage: Any
        weights_base: Any  # only in a model with pretrained weights: a Base, or None
        out_norms: nn.ModuleDict
        forward_features: Callable[..., Tensor]
        forward_head: Callable[..., Tensor]
        forward_intermediates: Callable[..., Any]
        prune_intermediate_layers: Callable[..., list[int]]
        reset_classifier: Callable[..., None]
        set_grad_checkpointing: Callable[..., None]
        group_matcher: Callable[..., Any]
        no_weight_decay: Callable[[], set[str]]
        init_weights: Callable[..., None]
        full_model: Callable[[], Any]  # only in a feature model of this package
        _traits: dict[str, Any]
        _model_args: dict[str, Any]

        def __getattr__(self, name: str) -> Any: ...
        def modules(self, *args: Any, **kwargs: Any) -> Iterator[Any]: ...
        def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]: ...
        def get_submodule(self, target: str) -> Any: ...

    Model: TypeAlias = TimmModel | Any
    """A timm model. `Any` beside it, since `timm.create_model` and the children of a model promise an `nn.Module`."""
else:
    Model = Any
