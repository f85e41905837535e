"""What a user types, looked up: names, tags, words of a list; errors name what is near."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ._types import Model

__all__ = ["create", "editable", "known", "licences", "one_of"]

ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")
"""First parts of names that are no names of timm's."""


def one_of(what: str, wanted: str | None, known: Iterable[str]) -> None:
    """Raise ValueError if a word of the user is given and not known; the message has the nearest and all known ones."""
    known = sorted(known)
    if wanted is not None and wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown {what} {wanted!r}{hint} Known: {', '.join(known)}")


def known(name: str) -> str:
    """A model name that timm knows, tag included; ids of the Hub and folders pass.

    Raises:
        ValueError: timm does not know it; the message has the nearest names, or the tags that there are.
    """
    import timm
    from timm.models import get_arch_pretrained_cfgs

    if name.startswith(ELSEWHERE):
        return name
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`timm-ext list` shows ours, timm.list_models() all"
        raise ValueError(f"unknown model {architecture!r}; {hint}")
    if tag:
        one_of(f"tag of {architecture}:", tag, (item.partition(".")[2] for item in get_arch_pretrained_cfgs(name)))
    return name


def create(name: str, *, edits: str | None = None, device: str = "cpu", **kwargs: Any) -> Model:
    """A model by name, in eval mode; `kwargs` are those of `timm.create_model`.

    Raises:
        ValueError: Edits for a name that takes none.
    """
    import timm
    import torch

    from .transport import explained

    with explained(name), torch.device(device):
        return timm.create_model(known(name), **editable(name, edits), **kwargs).eval()


def editable(name: str, edits: str | Sequence[Any] | None) -> dict[str, Any]:
    """The keyword for the edits, if there are any; ids of the Hub and folders pass.

    Raises:
        ValueError: The name takes none.
    """
    from .registry import VARIANTS

    architecture = name.partition(".")[0]
    if not edits:
        return {}
    if architecture not in VARIANTS and not name.startswith(ELSEWHERE):
        known(name)
        hint = f"; ext_{name} does" if f"ext_{architecture}" in VARIANTS else "; `timm-ext list` shows what does"
        raise ValueError(f"{name} does not take edits{hint}")
    return {"edits": edits}


def licences(name: str) -> dict[str, str]:
    """Tag -> licence of its weights, as timm records it; empty for a Hub id, a folder and what has no weights."""
    from timm.models import get_arch_pretrained_cfgs

    cfgs = get_arch_pretrained_cfgs(name)
    return {tag.partition(".")[2]: cfg.license or "not stated" for tag, cfg in cfgs.items() if cfg.has_weights}
