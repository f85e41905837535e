"""A checkpoint as the difference to its base: only the tensors that are not bit-identical to the base's.

`config.json` names the base, the tensors of the base that the whole checkpoint lacks, and the digest of the whole. Base
and difference together give the whole checkpoint again, or an error.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from .files import WEIGHTS

__all__ = ["Base", "Delta", "assembled", "delta_of", "difference", "digest", "same_bits"]

_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_REPO, _FILE = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII), re.compile(r"[\w.-]+\.safetensors", re.ASCII)
FORMAT = "timm"
"""Format of the tensor names of a base; other formats raise an error."""


@dataclass(frozen=True)
class Base:
    """A file of weights on the Hub, at one commit."""

    repo: str
    commit: str
    sha256: str
    file: str = WEIGHTS
    format: str = FORMAT

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit}"


@dataclass(frozen=True)
class Delta:
    """The entry of a config that describes a difference."""

    base: Base
    digest: str
    """`digest` of the whole checkpoint."""
    without: tuple[str, ...] = ()
    """Names of the base's tensors that the whole checkpoint lacks, such as those of another classifier."""

    def as_config(self) -> dict[str, Any]:
        """This object as the entry of a config.json."""
        return {**asdict(self), "without": list(self.without)}


def delta_of(config: Mapping[str, Any]) -> Delta | None:
    """Read the entry for a difference from a config; None if the weights are whole.

    Raises:
        ValueError: The entry is damaged, or of a newer version.
    """
    ours = config.get("timm_backbones_ext")
    entry = ours.get("delta") if isinstance(ours, Mapping) else None
    if entry is None:
        return None
    try:
        base = Base(**entry["base"])
        found = Delta(base, entry["digest"], tuple(entry["without"]))
        texts = (base.repo, base.commit, base.sha256, base.file, found.digest)
        rules = (_REPO, _COMMIT, _SHA256, _FILE, _SHA256)
        valid = all(rule.fullmatch(text) for rule, text in zip(rules, texts, strict=True))
    except (TypeError, KeyError):
        valid = False
    if not valid or not all(isinstance(key, str) for key in found.without) or set(entry) - set(found.as_config()):
        raise ValueError("has an entry 'delta' that this version does not read")
    if base.format != FORMAT:
        raise ValueError(f"is a difference to a base in the format {base.format!r}; this version reads {FORMAT!r}")
    return found


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of a state dict: names in order, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        total.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(memoryview(_bytes(value).numpy()))
    return total.hexdigest()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes; NaN equals itself."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))


def _bytes(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def difference(whole: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a state dict that differ from the base's or are new, and the names that only the base has.

    Raises:
        ValueError: No tensor is bit-identical to the base's.
    """
    changed = {key: value for key, value in whole.items() if key not in base or not same_bits(value, base[key])}
    if len(changed) == len(whole):
        raise ValueError("no tensor of the model is bit-identical to the base's")
    return changed, tuple(sorted(base.keys() - whole.keys()))


def assembled(changed: Mapping[str, Tensor], base: Mapping[str, Tensor], delta: Delta) -> dict[str, Tensor]:
    """The whole state dict from the difference and its base.

    Raises:
        WeightsError: The result is not the state dict that was saved.
    """
    whole = {key: value for key, value in base.items() if key not in delta.without} | dict(changed)
    if absent := [key for key in delta.without if key not in base]:
        raise WeightsError(f"the base has no tensor {absent[0]!r}, which the difference leaves out; nothing was loaded")
    if (got := digest(whole)) != delta.digest:
        raise WeightsError(
            f"base and difference give tensors with the digest {got[:16]}..., and {delta.digest[:16]}... was saved; "
            "the file of the difference is damaged or was changed. Nothing was loaded"
        )
    return whole
