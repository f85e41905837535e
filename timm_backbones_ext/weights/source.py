"""Sources of pretrained weights: a checked safetensors file from the Hub or a folder; never a pickle."""

import copy
import os
from pathlib import Path
from typing import Any, NamedTuple

import timm.models
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from timm.models import PretrainedCfg
from torch import Tensor

from .._digest import sha256_of
from .._timm import resolve_pretrained_source
from ..errors import HubError, WeightsError
from ..licences import warn_once
from ..transport import Repo
from .config import read_config
from .delta import Base, Delta, assembled, delta_of
from .files import CONFIG, WEIGHTS, read_tensors

__all__ = [
    "Found",
    "base_endpoint",
    "base_file",
    "base_tensors",
    "folder_delta",
    "from_folder",
    "no_safetensors",
    "pretrained_tensors",
    "safe_source",
    "whole_tensors",
]


class Found(NamedTuple):
    """Tensors, and the Hub file that they came from; for a difference, the file of its base."""

    tensors: dict[str, Tensor]
    base: Base | None = None


def no_safetensors(place: str) -> str:
    """The message for a repo or folder without safetensors weights."""
    return (
        f"{place} has no {WEIGHTS}, and pickles are not read. Convert a pickle that you trust: "
        f"safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), '{WEIGHTS}')"
    )


def safe_source(cfg: PretrainedCfg) -> dict[str, Any]:
    """Config entries that make timm read the safetensors file of a Hub repo; empty if the config names no repo."""
    if not cfg.hf_hub_id:
        return {}
    return {"hf_hub_id": cfg.hf_hub_id, "hf_hub_filename": cfg.hf_hub_filename or WEIGHTS, "url": None}


def from_folder(cfg: dict[str, Any]) -> str | None:
    """The folder or repo of the config.json from which a model is made; None for a model made by its name."""
    return {"hf-hub": cfg.get("hf_hub_id"), "local-dir": str(cfg.get("file"))}.get(cfg.get("source") or "")


def pretrained_tensors(cfg: dict[str, Any], cache_dir: str | Path | None = None) -> Found:
    """The tensors that a resolved pretrained config names.

    A licence that forbids commercial use gives a `LicenseWarning`, once per process and origin.

    Args:
        cfg: timm's config as a dict.
        cache_dir: Folder of the Hub's cache; huggingface_hub's by default.

    Raises:
        WeightsError: The config names no weights, there is no safetensors file, the file is damaged, or a difference
            and its base do not give the tensors that were saved.
        HubError: The weights cannot be fetched, differ from the hash that the Hub recorded, or the config is invalid.
    """
    kind, location = _resolved(cfg)
    warn_once(_origin(cfg), cfg.get("license"))
    if kind == "state_dict":
        return Found(copy.deepcopy(location))  # a copy, so that the caller's tensors do not change
    if kind == "hf-hub":
        return _from_hub(cfg, location, cache_dir)
    if kind == "local-dir":
        folder, place = Path(location), str(location)
        if not (folder / WEIGHTS).is_file():
            raise WeightsError(no_safetensors(f"folder {location}"))
        delta = folder_delta(folder, place)
        return Found(whole_tensors(folder, place, delta, cache_dir=cache_dir), delta.base if delta else None)
    if kind == "file":
        safe = str(location).endswith(".safetensors")
        return Found(_read(Path(location), str(location)) if safe else timm.models.load_state_dict(location))
    raise WeightsError(f"{cfg.get('architecture')} has no pretrained weights; create it with pretrained=False")


def _origin(cfg: dict[str, Any]) -> str:
    """The name of the weights in a warning: their repo, or else the architecture with its tag."""
    return str(cfg.get("hf_hub_id") or ".".join(filter(None, (cfg.get("architecture"), cfg.get("tag")))))


def _resolved(cfg: dict[str, Any]) -> tuple[str, Any]:
    """timm's name for the kind of source, and the source; timm's annotation leaves out state dicts."""
    return resolve_pretrained_source(cfg)


def _read(file: Path, place: str) -> dict[str, Tensor]:
    try:
        return read_tensors(file)
    except (SafetensorError, WeightsError) as error:
        reason = str(error).removeprefix(f"{file.name} ")
        raise WeightsError(f"{file.name} of {place}: {reason}") from error


def folder_delta(folder: Path, place: str) -> Delta | None:
    """Read the entry for a difference from the config in a folder; None if the weights are whole.

    Raises:
        HubError: The config is damaged, or names a model that this version does not know.
    """
    return delta_of(read_config(folder / CONFIG, place))


def whole_tensors(
    folder: Path, place: str, delta: Delta | None, *, cache_dir: str | Path | None = None
) -> dict[str, Tensor]:
    """All tensors of a saved model; for a difference, those of its base with the changed ones replaced.

    Raises:
        HubError: The base cannot be fetched, or is not the file that the config names.
        WeightsError: A file is damaged, or the result is not what was saved.
    """
    changed = _read(folder / WEIGHTS, place)
    if delta is None:
        return changed
    base = base_tensors(delta.base, place, cache_dir=cache_dir)
    try:
        return assembled(changed, base, delta)
    except WeightsError as error:
        raise WeightsError(f"{place}, a difference to {delta.base}: {error}") from error


def base_endpoint() -> str | None:
    """Address of another Hub for bases, if the user has set one; a config cannot set it."""
    return os.environ.get("TIMM_BACKBONES_EXT_BASE_ENDPOINT") or None


def base_file(base: Base, place: str, *, cache_dir: str | Path | None = None, token: str | bool | None = None) -> Path:
    """The file of a base, from the cache or the Hub, with the recorded hash.

    Raises:
        HubError: The file cannot be fetched, or is another one; the message names the base and `place`, which needs it.
    """
    try:
        where: Any = {"token": token, "cache_dir": cache_dir, "endpoint": base_endpoint()}
        return Repo(base.repo, base.commit, pinned={base.file: base.sha256}, **where).file(base.file)
    except HubError as error:
        raise HubError(
            f"{place} holds only the difference to its base {base}, and the base cannot be had: {error}. Nothing was "
            f"loaded. Get access to {base.repo} and go online once, or ask the owner of {place} for the whole model: "
            "`timm-ext pull --whole` writes it where the base is in the cache"
        ) from error


def base_tensors(base: Base, place: str, *, cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """The tensors of a base.

    Raises:
        HubError: As `base_file`.
        WeightsError: The file is damaged.
    """
    return _read(base_file(base, place, cache_dir=cache_dir), f"{base}, the base of {place}")


def _from_hub(cfg: dict[str, Any], location: Any, cache_dir: str | Path | None) -> Found:
    """The tensors of a repo, fetched and checked."""
    hub_id, filename = location if isinstance(location, tuple) else (location, WEIGHTS)
    repo_id, _, revision = str(hub_id).partition("@")
    own = cfg.get("source") == "hf-hub"  # timm has just read the config of the same repo
    repo = _where_config_came_from(repo_id, revision, cache_dir) if own else Repo(hub_id, cache_dir=cache_dir)
    if not repo.has(filename):
        raise WeightsError(no_safetensors(repo.place))
    file, place = repo.file(filename), str(cfg["hf_hub_id"])
    delta = delta_of(read_config(repo.file(CONFIG), place)) if own and repo.has(CONFIG) else None
    if delta is not None:
        return Found(whole_tensors(file.parent, place, delta, cache_dir=cache_dir), delta.base)
    return Found(_read(file, place), Base(repo.id, repo.commit, _sha256(file), filename))


def _sha256(file: Path) -> str:
    """The sha256 of a file of the cache; the names of large blobs are their sha256."""
    name = file.resolve().name
    return name if len(name) == 64 else sha256_of(file)


def _where_config_came_from(repo_id: str, revision: str, cache_dir: str | Path | None) -> Repo:
    """The repo at the commit whose config timm has read, so that weights and config are from one commit."""
    read = try_to_load_from_cache(repo_id, CONFIG, cache_dir=cache_dir, revision=revision or None)
    if not isinstance(read, str):
        return Repo(repo_id, revision or None, cache_dir=cache_dir)
    came = Path(read).parent.name
    if Repo.is_commit(revision) and came != revision:
        raise HubError(
            f"{repo_id}@{revision}: asked for this commit, and the Hub answered with {came}. "
            "A branch or tag may have the name of a commit; nothing was loaded"
        )
    repo, content = Repo(repo_id, came, cache_dir=cache_dir), Path(read).read_bytes()
    if repo.file(CONFIG).read_bytes() != content:
        raise HubError(f"{repo_id}: {CONFIG} was damaged in the cache; it is whole again now. Create the model again")
    read_config(repo.file(CONFIG), repo.place)
    return repo
