"""Variants: timm models with edits under names of their own; the one file that knows timm's registry and builder."""

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from safetensors import SafetensorError
from timm.models import (
    build_model_with_cfg,
    get_arch_pretrained_cfgs,
    is_model,
    model_entrypoint,
    register_model,
)
from timm.models._pretrained import DefaultCfg, PretrainedCfg
from timm.models._registry import _model_pretrained_cfgs
from torch import nn

from ._types import Model
from .checks import HINT
from .edits import Edit, parse
from .layers.features import wrap
from .norm_layer import translated
from .source import WEIGHTS, from_hub, place_of, safe_overlay, safe_source
from .weights import Recipe, WeightsError, read_header

__all__ = [
    "BUILT_IN",
    "HINT",
    "VARIANTS",
    "Variant",
    "build",
    "register_variant",
    "variant",
]

default_cfgs: dict[str, DefaultCfg] = {}  # of the variants that users register; timm reads it from the module


@dataclass(frozen=True)
class Variant:
    """A name, the timm architecture that it starts from and the edits that make it."""

    name: str
    base: str
    edits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.startswith("ext_") or not self.name.isidentifier():
            raise ValueError(f"a variant's name is an identifier that starts with 'ext_'; got {self.name!r}")
        if not is_model(self.base) or "." in self.base:
            raise ValueError(f"base {self.base!r} is no timm architecture; timm.list_models() has them all")
        parse(self.edits)


VARIANTS: dict[str, Variant] = {}
BUILT_IN: set[str] = set()
"""Names that this package registers, and that other machines therefore know."""


def variant(base: str, *edits: str) -> Callable[[Any], Callable[..., Any]]:
    """Register an entry function as a variant of `base`, under the function's own name.

    Tags, hub ids and licences are those that timm's registry holds for the base. The function calls `build`, which
    learns from the decorator which variant it builds.
    """

    def register(fn: FunctionType) -> Callable[..., Any]:
        made = Variant(fn.__name__, base, edits)

        @functools.wraps(fn)
        def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
            return fn(pretrained, variant=made, **kwargs)

        sys.modules[fn.__module__].default_cfgs[made.name] = _derived_cfgs(made)
        VARIANTS[made.name] = made
        if fn.__module__.startswith(f"{__package__}.models."):
            BUILT_IN.add(made.name)
        register_model(entry)
        # transformers passes the hint on as a tag, so it has to be one; list_models() does not show it
        _model_pretrained_cfgs[f"{made.name}.{HINT}"] = PretrainedCfg(architecture=made.name, tag=HINT)
        return entry

    return register


def register_variant(name: str, *, base: str, edits: str | Edit | Iterable[str | Edit] = ()) -> Variant:
    """Give a timm architecture with edits a name of your own, for `timm.create_model`.

    Args:
        name: An unused identifier that starts with `ext_`.
        base: Architecture name in timm, without a tag: "resnet50".
        edits: Edits, or their texts: `["eca", "in_chans(5)"]`.

    Raises:
        ValueError: The name is taken or lacks the prefix, the base is unknown, or an edit is.
    """
    if is_model(name):
        raise ValueError(f"{name!r} is registered already; choose another name")

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(pretrained, **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{base} with {', '.join(map(str, parse(edits))) or 'no edits'}; registered by the user."
    variant(base, *map(str, parse(edits)))(entry)
    return VARIANTS[name]


def _derived_cfgs(variant: Variant) -> DefaultCfg:
    """The base's pretrained configs, default first; weights come as safetensors from the *base's* Hub repo."""
    multiple = max((item.multiple for item in parse(variant.edits)), default=1)
    cfgs = {
        name.partition(".")[2]: replace(cfg, architecture=None, tag=None, **safe_source(cfg), **_sizes(cfg, multiple))
        for name, cfg in get_arch_pretrained_cfgs(variant.base).items()
    }
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=any(cfg.has_weights for cfg in cfgs.values()))


def _sizes(cfg: PretrainedCfg, multiple: int) -> dict[str, Any]:
    """Image and pooling sizes for edits that need sides of a multiple of so many pixels: the next larger."""
    (channels, height, width), test = cfg.input_size, cfg.test_input_size
    grown = [-(-side // multiple) * multiple for side in (height, width)]
    if grown == [height, width] or cfg.pool_size is None:
        return {}
    pool = tuple(pooled * new // old for pooled, new, old in zip(cfg.pool_size, grown, (height, width), strict=True))
    sizes = {"input_size": (channels, *grown), "pool_size": pool}
    return {**sizes, "test_input_size": test and (channels, *(-(-side // multiple) * multiple for side in test[1:]))}


def build(
    pretrained: bool = False,
    *,
    variant: Variant,
    edits: str | Edit | Iterable[str | Edit] | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    feature_cls: str | type[nn.Module] | None = None,
    feature_cfg: dict[str, Any] | None = None,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Model:
    """Build a variant as timm builds its base, with the edits applied before weights are loaded.

    Args:
        pretrained: Load the weights that the pretrained config names: a base's, or a saved variant's.
        variant: Given by the decorator.
        edits: Edits beyond those of the variant.
        features_only: Return feature maps; `out_indices`, `feature_cls` and `feature_cfg` are timm's.
        out_indices: Levels to return, in the order wanted.
        feature_cls: "list", "dict", "hook", "getter", "fx" or a class.
        feature_cfg: Further arguments of the feature class.
        pretrained_cfg: timm's: a tag, or a config.
        pretrained_cfg_overlay: timm's: entries that replace those of the config.
        kwargs: Arguments of timm's entry function for the base, and of its builder.

    Raises:
        ValueError: An unknown edit, or one that does not fit the model.
        WeightsError: The weights are not those of this model, or there is no safetensors file.
        HubError: The weights cannot be fetched, or are not what the Hub recorded.
    """
    entry = model_entrypoint(variant.base)
    kwargs, chosen = translated(kwargs, (*parse(variant.edits), *parse(edits)), entry)
    recipe = Recipe(entry, chosen, headless=features_only)
    if features_only:
        kwargs["num_classes"] = 0
    overlay = {**safe_overlay(pretrained_cfg, pretrained), **(pretrained_cfg_overlay or {})}
    # timm's annotation of pretrained_cfg leaves out a tag
    given: Any = {"pretrained_cfg": pretrained_cfg, "pretrained_filter_fn": recipe.fit, **kwargs}
    make = functools.partial(build_model_with_cfg, recipe, variant.name, pretrained, **given)
    file = from_hub(variant.name, pretrained_cfg, overlay, kwargs.get("cache_dir")) if pretrained else None
    if file is not None:
        with torch.device("meta"):  # does the header fit? A model without memory can tell
            make(pretrained_cfg_overlay={**overlay, "source": "", "state_dict": read_header(file)}, device="meta")
    try:
        model = make(pretrained_cfg_overlay={**overlay, "source": "", "file": str(file)} if file else overlay)
    except SafetensorError as error:
        place = place_of(pretrained_cfg, overlay)
        raise WeightsError(f"{WEIGHTS} of {place} is damaged or is not a safetensors file ({error})") from error
    if file is not None:
        model.pretrained_cfg["file"] = None  # the cache of this machine is nothing to remember
    if pretrained:
        _keep_statistics(model)
    if not features_only:
        return model
    levels: dict[str, Any] = {"out_indices": out_indices, "feature_cls": feature_cls}
    return wrap(model, **{**(feature_cfg or {}), **{key: value for key, value in levels.items() if value is not None}})


def _keep_statistics(model: Model) -> None:
    """Mark batch norms, with transformers' own mark, as initialised: 5.23 resets them in its backbones otherwise."""
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module._is_hf_initialized = True
