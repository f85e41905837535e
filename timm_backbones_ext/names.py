"""Parsing of what a user types: names of models, folders and repos. Errors suggest similar names.

One rule tells a folder from a repo on the Hub. The path of an existing folder is a folder. A text that begins with
`local-dir:`, `./`, `../`, `/` or `~` can only be a folder; one that begins with `hf-hub:` can only be a repo. Any other
text must be "owner/name". It is refused if a folder `owner` exists here, because it may be a misspelt path.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ._types import Model

__all__ = [
    "HUB",
    "carries_weights",
    "create",
    "editable",
    "find_folder",
    "find_source",
    "known",
    "licences",
    "one_of",
    "repo_id",
    "saved_folder",
]

HUB = ("hf-hub:", "hf_hub:")
"""Prefixes of the names of repos."""
FOLDER = "local-dir:"
"""Prefix of the name of a folder."""
PATHLIKE = re.compile(r"\.{1,2}($|[/\\])|[/\\~]|[A-Za-z]:[/\\]|local-dir:")
"""Beginning of a text that can only be a folder."""


def one_of(what: str, wanted: str | None, known: Iterable[str]) -> None:
    """Raise ValueError if a word is given and unknown; the message lists the known words and the most similar one."""
    known = sorted(known)
    if wanted is not None and wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown {what} {wanted!r}{hint} Known: {', '.join(known)}")


def saved_folder(source: str | Path) -> Path | None:
    """The folder that a source names; None if the source may be a repo or a model.

    Args:
        source: A path, which must exist, or a text.

    Raises:
        FileNotFoundError: The source can only be a folder, and does not exist.
        ValueError: The source is a file.
    """
    text = str(source)
    folder = Path(text.removeprefix(FOLDER)).expanduser()
    if not text or text.startswith(HUB):
        return None
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{text} is a file; expected a folder")
    if isinstance(source, Path) or PATHLIKE.match(text):
        raise FileNotFoundError(f"no folder {str(folder)!r}{_near(folder)}")
    return None


def find_folder(source: str | Path) -> Path:
    """The folder that a source names.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The source is a file.
    """
    if folder := saved_folder(source):
        return folder
    raise FileNotFoundError(f"no folder {str(source)!r}{_near(Path(source))}")


def find_source(source: str | Path) -> Path | str:
    """The folder or the repo that a source names, by the rule of this module.

    Returns:
        A Path for a folder; a str for a repo, as `repo_id` returns it.

    Raises:
        FileNotFoundError: The source can only be a folder, and does not exist.
        ValueError: The source is a file, a misspelt folder, or neither folder nor repo.
    """
    if folder := saved_folder(source):
        return folder
    text = str(source)
    if text.startswith(HUB):
        return repo_id(text)
    owner, _, name = text.partition("/")
    if name and Path(owner).is_dir():
        raise FileNotFoundError(
            f"no folder {text!r} in the folder {owner!r}{_near(Path(text))}; for a repo on the Hub write hf-hub:{text}"
        )
    try:
        return repo_id(text)
    except ValueError as error:
        raise ValueError(f"no folder {text!r} is here{_near(Path(text))}; {error}") from None


def repo_id(text: str) -> str:
    """Check the id of a repo without a network: "owner/name" or "owner/name@revision".

    Raises:
        ValueError: The text is not a repo id; the message says whether it is a path or the name of a model.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    bare = next((text.removeprefix(first) for first in HUB if text.startswith(first)), text)
    if PATHLIKE.match(bare) or Path(text).is_file():
        raise ValueError(f"{text!r} is a path; expected a repo on the Hub, as owner/name")
    try:
        validate_repo_id(bare.partition("@")[0])
        valid = "/" in bare
    except HFValidationError:
        valid = False
    if not valid:
        kind = "the name of a model" if bare and _is_model(bare) else "not a valid repo id"
        raise ValueError(f"{text!r} is {kind}; expected a repo on the Hub, as owner/name")
    return bare


def _near(folder: Path) -> str:
    """A hint that names the most similar sibling of a missing folder; empty if there is none."""
    if not folder.parent.is_dir():
        return ""
    beside = [item.name for item in folder.parent.iterdir() if item.is_dir()]
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f"; did you mean {str(folder.parent / near[0])!r}?" if near else ""


def _is_model(name: str) -> bool:
    import timm

    return timm.is_model(name.partition(".")[0])


def known(source: str) -> str:
    """The name of a source for `timm.create_model`: "local-dir:FOLDER", "hf-hub:owner/name", or a model's name.

    Raises:
        FileNotFoundError: The source can only be a folder, and does not exist.
        ValueError: The source is none of the three; the message lists similar names or the known tags.
    """
    import timm
    from timm.models import get_arch_pretrained_cfgs

    from .weights.files import CONFIG

    if folder := saved_folder(source):
        if not (folder / CONFIG).is_file():
            raise ValueError(f"the folder {str(folder)!r} holds no model: it has no {CONFIG}")
        return f"{FOLDER}{folder}"
    if "/" in source:
        return f"{HUB[0]}{find_source(source)}"
    architecture, _, tag = source.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`timm-ext list` shows ours, timm.list_models() all"
        raise ValueError(f"unknown model {architecture!r}; {hint}")
    if tag:
        one_of(f"tag of {architecture}:", tag, (item.partition(".")[2] for item in get_arch_pretrained_cfgs(source)))
    return source


def create(source: str, *, edits: str | None = None, device: str = "cpu", **kwargs: Any) -> Model:
    """The model that a source names, in eval mode; a folder and a repo come with their weights.

    Args:
        source: Name of a model, a saved folder, or a repo on the Hub.
        edits: Edits to add to those of the model.
        device: Device to build the model on; no weights are loaded on "meta".
        kwargs: Further arguments of `timm.create_model`.

    Raises:
        ValueError: The model is unknown, or edits are given and it takes none.
        HubError: The repo cannot be read.
    """
    import timm
    import torch

    from .transport import explained

    name = known(source)
    if carries_weights(source) and device != "meta":
        kwargs["pretrained"] = True
    with explained(source), torch.device(device):
        return timm.create_model(name, **editable(name, edits), **kwargs).eval()


def carries_weights(source: str) -> bool:
    """Whether a source is a folder or a repo, which come with their weights, and not the name of a model."""
    return ":" in known(source)


def editable(name: str, edits: str | Sequence[Any] | None) -> dict[str, Any]:
    """Arguments of `timm.create_model` for the edits; empty without edits.

    Args:
        name: Name of the model, as `known` returns it.
        edits: The edits, or their text.

    Raises:
        ValueError: The model takes no edits.
    """
    from .registry import VARIANTS

    architecture = name.partition(".")[0]
    if not edits:
        return {}
    if architecture not in VARIANTS and not name.startswith((*HUB, FOLDER)):
        hint = f"; ext_{name} does" if f"ext_{architecture}" in VARIANTS else "; `timm-ext list` shows what does"
        raise ValueError(f"{name} does not take edits{hint}")
    return {"edits": edits}


def licences(name: str) -> dict[str, str]:
    """Tag -> licence of its weights, from timm's registry; empty for a repo, a folder or a model without weights."""
    from timm.models import get_arch_pretrained_cfgs

    cfgs = get_arch_pretrained_cfgs(name)
    return {tag.partition(".")[2]: cfg.license or "not stated" for tag, cfg in cfgs.items() if cfg.has_weights}
