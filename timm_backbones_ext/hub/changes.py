"""What a difference changes of its base, tensor by tensor."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import names
from ..transport import Repo
from ..weights.config import read_config
from ..weights.delta import delta_of
from ..weights.files import CONFIG, WEIGHTS, read_tensors
from ..weights.source import base_tensors

__all__ = ["TensorChange", "tensor_changes"]


@dataclass(frozen=True)
class TensorChange:
    """What became of a tensor of the base, or a tensor that it lacks."""

    name: str
    kind: str
    """"changed", "new", "reshaped" or "left out"."""
    shape: tuple[int, ...]
    norm: float | None
    """Of the change, relative to the norm of the base's tensor; of a new or reshaped one its own norm."""


def tensor_changes(
    source: str | Path, revision: str | None = None, *, token: str | bool | None = None
) -> tuple[str, list[TensorChange]]:
    """The base of a difference, and what the difference changes of it.

    Args:
        source: A saved folder, or a repo on the Hub.
        revision: Branch, tag or commit of a repo.
        token: Access token for a repo.

    Returns:
        "owner/name@commit", and the changes in the order of names; "" and nothing if all tensors are there.

    Raises:
        HubError: The repo or its base cannot be read.
        FileNotFoundError: There is no such folder.
    """
    place = names.find_source(source)
    repo = Repo(place, revision, token=token) if isinstance(place, str) else None
    config = repo.file(CONFIG) if repo else Path(place) / CONFIG
    delta = delta_of(read_config(config, str(source)))
    if delta is None:
        return "", []
    changed = read_tensors(repo.file(WEIGHTS) if repo else config.parent / WEIGHTS)
    base = base_tensors(delta.base, str(source), cache_dir=repo.cache if repo else None)
    gone = [TensorChange(key, "left out", tuple(base[key].shape), None) for key in delta.without if key in base]
    found = [_change(key, value, base.get(key)) for key, value in changed.items()]
    return str(delta.base), sorted([*gone, *found], key=lambda item: item.name)


def _change(name: str, value: Tensor, before: Tensor | None) -> TensorChange:
    shape, now = tuple(value.shape), value.double()
    if before is None or before.shape != value.shape:
        return TensorChange(name, "new" if before is None else "reshaped", shape, now.norm().item())
    size = before.double().norm().item()
    moved = (now - before.double()).norm().item()
    return TensorChange(name, "changed", shape, moved / size if size else moved)
