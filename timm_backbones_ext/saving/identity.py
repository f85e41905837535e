"""What a model is, in names by which another machine can create it."""

from dataclasses import dataclass

from .._types import Model
from ..edits import parse_edits
from ..registry import BUILT_IN, VARIANTS

__all__ = ["Identity", "identify"]


@dataclass(frozen=True)
class Identity:
    """What a model is, in names that another machine knows."""

    architecture: str
    """The name to create it by; one that this package or timm registers."""
    base: str
    tag: str | None
    edits: tuple[str, ...]
    """All edits, those of the architecture's own included."""
    extra: tuple[str, ...]
    """The edits to pass as `edits=`."""


def identify(model: Model) -> Identity:
    """Find the name and the edits by which a full model can be created anew.

    Raises:
        ValueError: The model is edited and its base has no `ext_` name in this package.
    """
    name, tag = model.pretrained_cfg["architecture"], model.pretrained_cfg.get("tag")
    edits = tuple(getattr(model, "edits", ()))
    variant = VARIANTS.get(name)
    base = variant.base if variant else name
    if variant is None and not edits:
        return Identity(name, base, tag, (), ())
    presets = {
        item: tuple(map(str, parse_edits(VARIANTS[item].edits))) for item in BUILT_IN if VARIANTS[item].base == base
    }
    fitting = [item for item, preset in presets.items() if edits[: len(preset)] == preset]
    if not fitting:
        known = [f"{item} ({', '.join(preset) or 'no edits'})" for item, preset in sorted(presets.items())]
        raise ValueError(
            f"{base} with the edits {', '.join(edits) or '(none)'} has no name in timm-backbones-ext that others could "
            f"create it by; names for this base, with the edits that come first: {'; '.join(known) or 'none'}"
        )
    if name not in fitting:  # a user's own name, a timm model edited in place, or a variant whose edits are merged
        name = min(fitting, key=lambda item: (len(presets[item]), item))
    return Identity(name, base, tag, edits, edits[len(presets[name]) :])
