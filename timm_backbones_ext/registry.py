"""Variants: named timm models with edits. Only this file uses timm's registry and builder."""

import functools
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    build_model_with_cfg,
    is_model,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from ._timm import model_pretrained_cfgs, model_with_tags
from ._types import Model
from .edits import Edit, parse_edits
from .edits.in_chans import channels_as_edit
from .errors import BackboneError, HubError
from .features import feature_model
from .norm_layer import translated
from .weights.files import CONFIG, HINT
from .weights.fit import Recipe, load_pretrained
from .weights.limits import bounded
from .weights.source import from_folder, pretrained_tensors, safe_source

__all__ = [
    "ARCHITECTURES",
    "BUILT_IN",
    "VARIANTS",
    "Variant",
    "architecture",
    "build",
    "list_variants",
    "register_variant",
    "variant",
]

default_cfgs: dict[str, DefaultCfg] = {}  # of the variants that users register; timm reads this name


@dataclass(frozen=True)
class Architecture:
    """An architecture that timm lacks: the function that makes its model, and the name of its family's timm module."""

    entry: Callable[..., Model]
    family: str


ARCHITECTURES: dict[str, Architecture] = {}
"""The architectures of this package, by name; each is also a variant, whose base has the same name."""


@dataclass(frozen=True)
class Variant:
    """A name, its base architecture (timm's or one of `ARCHITECTURES`), and its edits as texts."""

    name: str
    base: str
    edits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.startswith("ext_") or not self.name.isidentifier():
            raise ValueError(f"a variant's name is an identifier that starts with 'ext_'; got {self.name!r}")
        if self.base not in ARCHITECTURES and (not is_model(self.base) or "." in self.base):
            raise ValueError(f"base {self.base!r} is no timm architecture; timm.list_models() has them all")
        parse_edits(self.edits)

    @property
    def entry(self) -> Callable[..., Model]:
        """The function that makes the base model without edits."""
        own = ARCHITECTURES.get(self.base)
        return own.entry if own else model_entrypoint(self.base)

    @property
    def family(self) -> str:
        """Name of timm's module for the family: "resnet"."""
        own = ARCHITECTURES.get(self.base)
        return own.family if own else self.entry.__module__.rpartition(".")[2]

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from .console import html_table  # not needed to register

        rows = [(item, item.exact, item.evidence) for item in parse_edits(self.edits)]
        return html_table(("edit", "exact in", "evidence"), rows, f"{self.name}: {self.base}")


VARIANTS: dict[str, Variant] = {}
BUILT_IN: set[str] = set()
"""Names that this package registers itself, so that they exist on every machine that has it."""


def variant(base: str, *edits: str) -> Callable[[Any], Callable[..., Any]]:
    """Register an entry function as a variant of `base`, under the function's own name.

    Tags, Hub ids and licences come from timm's registry entry of the base. The function calls `build`; the decorator
    passes the variant to it.
    """

    def register(fn: FunctionType) -> Callable[..., Any]:
        made = Variant(fn.__name__, base, edits)
        return _registered(fn, made, _derived_cfgs(made))

    return register


def architecture(
    make: Callable[..., Model], family: str, config: Mapping[str, Any], **kwargs: Any
) -> Callable[[Any], Callable[..., Any]]:
    """Register an entry function, under its own name, as an architecture that timm lacks; it has no pretrained weights.

    Args:
        make: Makes the model without edits by timm's builder; takes the name, then the arguments of an entry function.
        family: timm's module of the family, such as "resnet".
        config: Fields of the pretrained config.
        kwargs: Arguments of `make` for this architecture.
    """

    def register(fn: FunctionType) -> Callable[..., Any]:
        name = fn.__name__
        ARCHITECTURES[name] = Architecture(functools.partial(make, name, **kwargs), family)
        cfgs = DefaultCfg(tags=deque([""]), cfgs={"": PretrainedCfg(**config)})
        return _registered(fn, Variant(name, name), cfgs)

    return register


def _registered(fn: FunctionType, made: Variant, cfgs: DefaultCfg) -> Callable[..., Any]:
    """Register an entry function with timm; it passes its variant to `build`."""

    @functools.wraps(fn)
    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return fn(pretrained, variant=made, **kwargs)

    sys.modules[fn.__module__].default_cfgs[made.name] = cfgs
    VARIANTS[made.name] = made
    if fn.__module__.startswith(f"{__package__}.models."):
        BUILT_IN.add(made.name)
    vars(entry)["base"] = made.base  # `allowed_arguments` reads the base's signature through it
    register_model(entry)
    # transformers passes the hint on as a tag, so it has to be one; list_models() does not show it
    model_pretrained_cfgs[f"{made.name}.{HINT}"] = PretrainedCfg(architecture=made.name, tag=HINT)
    return entry


def register_variant(name: str, *, base: str, edits: str | Edit | Iterable[str | Edit] = ()) -> Variant:
    """Register a timm architecture with edits under a new name for `timm.create_model`.

    Args:
        name: An unused identifier that starts with `ext_`.
        base: Name of an architecture of timm or of this package, without a tag: "resnet50".
        edits: Edits, or their texts: `["eca", "in_chans(5)"]`.

    Returns:
        The variant.

    Raises:
        ValueError: The name is taken or lacks the prefix, the base or an edit is unknown, the base is of a family that
            this package does not know, or an edit does not fit it.
    """
    if is_model(name):
        raise ValueError(f"{name!r} is registered already; choose another name")
    _try(Variant(name, base, tuple(map(str, parse_edits(edits)))))

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(pretrained, **kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{base} with {', '.join(map(str, parse_edits(edits))) or 'no edits'}; registered by the user."
    variant(base, *map(str, parse_edits(edits)))(entry)
    return VARIANTS[name]


def _try(variant: Variant) -> None:
    """Build a variant on the device `meta`, so that registering an impossible variant raises an error."""
    try:
        Recipe(model_entrypoint(variant.base), parse_edits(variant.edits))(device="meta")
    except ValueError as error:
        raise ValueError(f"{variant.name!r} cannot be built: {error}") from error


def list_variants(base: str | None = None) -> list[str]:
    """Names of the variants, sorted; `VARIANTS[name]` is the variant.

    Args:
        base: Only variants of this base architecture; all by default.

    Raises:
        ValueError: No variant has this base.
    """
    found = sorted(name for name, item in VARIANTS.items() if base in (None, item.base))
    if not found:
        raise ValueError(f"no variant of {base!r}; there are variants of {', '.join(sorted(_bases()))}")
    return found


def _bases() -> set[str]:
    return {item.base for item in VARIANTS.values()}


def _derived_cfgs(variant: Variant) -> DefaultCfg:
    """The base's pretrained configs, default first; weights are the safetensors files of the base's Hub repos."""
    multiple = max((item.multiple for item in parse_edits(variant.edits)), default=1)
    # not timm's get_arch_pretrained_cfgs: it makes deep copies, which take half the time of registering
    bases = {name: model_pretrained_cfgs[name] for name in model_with_tags[variant.base]}
    cfgs = {
        name.partition(".")[2]: replace(cfg, architecture=None, tag=None, **safe_source(cfg), **_sizes(cfg, multiple))
        for name, cfg in bases.items()
    }
    return DefaultCfg(tags=deque(cfgs), cfgs=cfgs, is_pretrained=any(cfg.has_weights for cfg in cfgs.values()))


def _sizes(cfg: PretrainedCfg, multiple: int) -> dict[str, Any]:
    """Input and pool sizes, rounded up to the multiple that the edits need; empty if they need no change."""
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
) -> Any:
    """Build a variant as timm builds its base, with the edits applied before weights are loaded.

    Args:
        pretrained: Load the weights that the pretrained config names: a base's, or a saved variant's.
        variant: The variant; the decorator passes it.
        edits: Edits to add to those of the variant.
        features_only: Return a model that returns feature maps.
        out_indices: Levels to return, in this order.
        feature_cls: "list", "dict", "hook", "getter", "fx" or a class.
        feature_cfg: Further arguments of the feature class.
        pretrained_cfg: As in timm: a tag, or a config.
        pretrained_cfg_overlay: As in timm: entries that replace those of the config.
        kwargs: Arguments of timm's entry function for the base, and of its builder. `in_chans=n` becomes the edit
            `in_chans(n)`.

    Raises:
        ValueError: An edit is unknown or does not fit the model.
        WeightsError: The weights do not fit the model, or there is no safetensors file.
        HubError: The weights cannot be fetched, or differ from the hash that the Hub recorded.
    """
    entry, kwargs, chosen = translated(variant.entry, kwargs, (*parse_edits(variant.edits), *parse_edits(edits)))
    cfg = _resolved(variant.name, pretrained_cfg, pretrained_cfg_overlay)
    held = (cfg.get("input_size") or (3,))[0] if pretrained else None
    kwargs, chosen = channels_as_edit(kwargs, chosen, held)
    recipe = Recipe(entry, chosen)
    if features_only:
        kwargs["num_classes"] = 0
    device = kwargs.pop("device", None)
    place = from_folder(cfg)
    with _naming(place), bounded(place) if place else nullcontext():
        found = pretrained_tensors(cfg, kwargs.get("cache_dir")) if pretrained else None
        make = functools.partial(build_model_with_cfg, recipe, variant.name, pretrained=False, pretrained_cfg=cfg)
        make = functools.partial(_made, make, kwargs)
        if found is None:
            model = make(device=device)
        else:
            model = load_pretrained(make, recipe, found.tensors, cfg, kwargs, device)
            model.weights_base = found.base  # what `save(delta=True)` saves the difference to
            _keep_statistics(model)
    if not features_only:
        return model
    levels: dict[str, Any] = {"out_indices": out_indices, "feature_cls": feature_cls}
    given = {key: value for key, value in levels.items() if value is not None}
    return feature_model(model, **{**(feature_cfg or {}), **given})


def _made(make: Callable[..., Model], kwargs: dict[str, Any], **changes: Any) -> Model:
    """Call timm's builder with a copy of the arguments, since it changes them."""
    chosen = {**kwargs, **changes}
    return make(**{key: value for key, value in chosen.items() if key != "device" or value is not None})


def _resolved(name: str, cfg: Any, overlay: dict[str, Any] | None) -> dict[str, Any]:
    """timm's pretrained config as a dict; weights of a Hub repo are read from its safetensors file."""
    given = None if cfg is None or isinstance(cfg, str) else cfg
    if given is not None:
        given = given if isinstance(given, PretrainedCfg) else PretrainedCfg(**given)
        overlay = {**safe_source(given), **(overlay or {})}
    return resolve_pretrained_cfg(name, pretrained_cfg=cfg, pretrained_cfg_overlay=overlay).to_dict()


@contextmanager
def _naming(place: str | None) -> Generator[None]:
    """Turn any error that timm raises while building from a saved config into a HubError that names its place."""
    try:
        yield
    except (BackboneError, OSError):
        raise
    except Exception as error:
        if place is None:
            raise
        raise HubError(
            f"{place}: {CONFIG} does not fit any model that this version can build, or not with the arguments of this "
            f"call ({type(error).__name__}: {error}); nothing was loaded"
        ) from error


def _keep_statistics(model: Model) -> None:
    """Mark batch norms as initialised, so that transformers 5.23 does not reset them in its backbones."""
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module._is_hf_initialized = True
