"""Where pretrained weights come from: a checked safetensors file from the Hub or a folder; never a pickle."""

import copy
from pathlib import Path
from typing import Any

import timm.models
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from timm.models import PretrainedCfg
from torch import Tensor

from .._timm import resolve_pretrained_source
from ..errors import HubError, WeightsError
from ..licences import warn_once
from ..transport import Repo
from .config import read_config
from .files import CONFIG, WEIGHTS, read_tensors

__all__ = ["from_folder", "no_safetensors", "pretrained_tensors", "safe_source"]


def no_safetensors(place: str) -> str:
    """The message for a repo or folder without safetensors weights."""
    return (
        f"{place} has no {WEIGHTS}, and pickles are not read. Convert a pickle that you trust: "
        f"safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), '{WEIGHTS}')"
    )


def safe_source(cfg: PretrainedCfg) -> dict[str, Any]:
    """Entries of a pretrained config by which weights come as safetensors from its Hub repo, if it names one."""
    if not cfg.hf_hub_id:
        return {}
    return {"hf_hub_id": cfg.hf_hub_id, "hf_hub_filename": cfg.hf_hub_filename or WEIGHTS, "url": None}


def from_folder(cfg: dict[str, Any]) -> str | None:
    """The folder or repo whose config.json a model is made from; None if the model is made by name alone."""
    return {"hf-hub": cfg.get("hf_hub_id"), "local-dir": str(cfg.get("file"))}.get(cfg.get("source") or "")


def pretrained_tensors(cfg: dict[str, Any], cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """The tensors that a resolved pretrained config names, read from a file where that can be.

    Weights that are not for commercial use give a `LicenseWarning`, once per process and origin.

    Args:
        cfg: timm's config as a dict.
        cache_dir: Folder of the Hub's cache; huggingface_hub's by default.

    Raises:
        WeightsError: The config names no weights, or there is no safetensors file, or it is damaged.
        HubError: The weights cannot be fetched, are not what the Hub recorded, or the config is nonsense.
    """
    kind, location = _resolved(cfg)
    warn_once(_origin(cfg), cfg.get("license"))
    if kind == "state_dict":
        return copy.deepcopy(location)  # the caller's tensors stay the caller's
    if kind == "hf-hub":
        return _read(_from_hub(cfg, location, cache_dir), str(cfg["hf_hub_id"]))
    if kind == "local-dir":
        if not (file := Path(location) / WEIGHTS).is_file():
            raise WeightsError(no_safetensors(f"folder {location}"))
        return _read(file, str(location))
    if kind == "file":
        safe = str(location).endswith(".safetensors")
        return _read(Path(location), str(location)) if safe else timm.models.load_state_dict(location)
    raise WeightsError(f"{cfg.get('architecture')} has no pretrained weights; create it with pretrained=False")


def _origin(cfg: dict[str, Any]) -> str:
    """What a warning calls the weights: their repo, else the architecture with its tag."""
    return str(cfg.get("hf_hub_id") or ".".join(filter(None, (cfg.get("architecture"), cfg.get("tag")))))


def _resolved(cfg: dict[str, Any]) -> tuple[str, Any]:
    """timm's words for where the weights are; its annotation leaves out state dicts."""
    return resolve_pretrained_source(cfg)


def _read(file: Path, place: str) -> dict[str, Tensor]:
    try:
        return read_tensors(file)
    except (SafetensorError, WeightsError) as error:
        reason = str(error).removeprefix(f"{file.name} ")
        raise WeightsError(f"{file.name} of {place}: {reason}") from error


def _from_hub(cfg: dict[str, Any], location: Any, cache_dir: str | Path | None) -> Path:
    """The file of the weights, fetched and checked."""
    hub_id, filename = location if isinstance(location, tuple) else (location, WEIGHTS)
    repo_id, _, revision = str(hub_id).partition("@")
    own = cfg.get("source") == "hf-hub"  # then timm has just read the config of the same repo
    repo = _where_config_came_from(repo_id, revision, cache_dir) if own else Repo(hub_id, cache_dir=cache_dir)
    if not repo.has(filename):
        raise WeightsError(no_safetensors(repo.place))
    return repo.file(filename)


def _where_config_came_from(repo_id: str, revision: str, cache_dir: str | Path | None) -> Repo:
    """The repo at the commit whose config timm has read, so that weights and config belong together."""
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
