"""A model as the difference to the checkpoint that it started from; the base stays where it is on the Hub."""

import json
from dataclasses import dataclass, replace

from torch import Tensor

from .._digest import sha256_of
from ..errors import HubError
from ..registry import BUILT_IN, VARIANTS
from ..transport import Repo
from ..weights.delta import Base, Delta, delta_of, difference, digest
from ..weights.files import CONFIG, WEIGHTS
from ..weights.source import base_endpoint, base_file, base_tensors
from .card import base_model
from .identity import Identity

__all__ = ["Difference", "difference_of", "with_own_name"]

WHOLE = "Save it whole: leave out delta"


@dataclass(frozen=True)
class Difference:
    """The part of a model that is saved if its base is on the Hub."""

    tensors: dict[str, Tensor]
    delta: Delta


def with_own_name(found: Identity) -> Identity:
    """The same model under a name of this package, since plain timm would load a difference as a whole model.

    Raises:
        ValueError: The model's base has no `ext_` name.
    """
    if found.architecture in BUILT_IN:
        return found
    plain = [name for name in sorted(BUILT_IN) if VARIANTS[name].base == found.base and not VARIANTS[name].edits]
    if not plain:
        raise ValueError(f"{found.base} has no ext_ name, under which alone a difference can be loaded. {WHOLE}")
    return replace(found, architecture=plain[0])


def difference_of(found: Identity, state: dict[str, Tensor], base: str | None, token: str | bool | None) -> Difference:
    """The difference of a model to its base.

    Args:
        found: The model.
        state: Its tensors, on the CPU.
        base: Hub id of the base, "owner/name" or "owner/name@revision"; by default the repo that the weights came
            from, else that of the model's tag. If it holds a difference itself, its own base is taken.
        token: Access token for the base.

    Raises:
        ValueError: The base is unknown, is not the file that the weights came from, or has no tensor in common with the
            model.
        HubError: The base cannot be fetched.
    """
    known = found.weights_base
    chosen = _looked_up(base, token) if base else known or _of_tag(found, token)
    if known is not None and chosen.sha256 != known.sha256:
        raise ValueError(
            f"the weights of this model came from {known} (sha256 {known.sha256[:16]}...), and {chosen} is another "
            f"file (sha256 {chosen.sha256[:16]}...); expected the same file as base. Leave out the base"
        )
    base_file(chosen, "the model", token=token)
    held = base_tensors(chosen, "the model")
    try:
        changed, without = difference(state, held)
    except ValueError as error:
        types = f"{_dtypes(held)} in the base, {_dtypes(state)} in the model"
        raise ValueError(f"{error} ({chosen}; {types}), so there is no difference to save. {WHOLE}") from error
    return Difference(changed, Delta(chosen, digest(state), without))


def _dtypes(state: dict[str, Tensor]) -> str:
    return ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in state.values()}))


def _of_tag(found: Identity, token: str | bool | None) -> Base:
    """The repo that timm's registry names for the tag of a model."""
    repo_id = base_model(found.base, found.tag)[0]
    if not repo_id:
        raise ValueError(
            "the model does not say which checkpoint it started from; name the base: base='owner/name'. " + WHOLE
        )
    return _looked_up(repo_id, token)


def _looked_up(repo_id: str, token: str | bool | None) -> Base:
    """The weights in a repo as a base; if they are a difference, its base.

    Raises:
        HubError: The repo cannot be read, or has no safetensors file.
    """
    repo = Repo(repo_id, token=token, endpoint=base_endpoint())
    try:
        if delta := _delta_in(repo):
            return delta.base
        path = repo.file(WEIGHTS)
    except HubError as error:
        raise HubError(f"the base of the model cannot be had: {error}. Nothing was saved. {WHOLE}") from error
    return Base(repo.id, repo.commit, sha256_of(path))


def _delta_in(repo: Repo) -> Delta | None:
    """Read the entry for a difference from the config of a repo; None if the weights are whole."""
    if not repo.has(CONFIG):
        return None
    try:
        return delta_of(json.loads(repo.file(CONFIG).read_bytes()))
    except (ValueError, AttributeError, RecursionError) as error:
        raise HubError(f"{repo.place}: {CONFIG} cannot be read ({error})") from error
