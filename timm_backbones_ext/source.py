"""Where pretrained weights come from: a checked safetensors file from the Hub or a folder; never a pickle."""

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from timm.models._builder import _resolve_pretrained_source, resolve_pretrained_cfg
from timm.models._pretrained import PretrainedCfg

from .checks import CONFIG, WEIGHTS, check_config
from .transfer import HubError, Repo
from .weights import WeightsError

__all__ = ["CONFIG", "WEIGHTS", "from_hub", "no_safetensors", "place_of", "safe_overlay", "safe_source"]


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


def safe_overlay(cfg: Any, pretrained: bool) -> dict[str, Any]:
    """Overlay that keeps timm from reading a pickle where the config names a repo or folder of the user's."""
    if cfg is None or isinstance(cfg, str):
        return {}
    cfg = cfg if isinstance(cfg, PretrainedCfg) else PretrainedCfg(**cfg)
    if cfg.source == "local-dir" and pretrained and not (Path(cfg.file or "") / WEIGHTS).is_file():
        raise WeightsError(no_safetensors(f"folder {cfg.file}"))
    return safe_source(cfg)


def place_of(cfg: Any, overlay: dict[str, Any]) -> str:
    """Where the weights come from, for an error message."""
    known = {
        **({} if cfg is None or isinstance(cfg, str) else dict(vars(cfg) if is_dataclass(cfg) else cfg)),
        **overlay,
    }
    return str(known.get("file") or known.get("hf_hub_id") or "the base's Hub repo")


def from_hub(name: str, cfg: Any, overlay: dict[str, Any], cache_dir: str | Path | None) -> Path | None:
    """The weights of a model whose config says that they are on the Hub: fetched and checked; None if they are not.

    Args:
        name: The model's name.
        cfg: timm's `pretrained_cfg`: a tag, a config, or none.
        overlay: timm's `pretrained_cfg_overlay`.
        cache_dir: Folder of the cache; huggingface_hub's by default.

    Raises:
        HubError: They cannot be fetched, are not what the Hub recorded, or the config fits no model.
        WeightsError: There is no safetensors file.
    """
    resolved = resolve_pretrained_cfg(name, pretrained_cfg=cfg, pretrained_cfg_overlay=overlay).to_dict()
    kind, location = _resolve_pretrained_source(resolved)
    if kind != "hf-hub":
        return None
    hub_id, filename = location if isinstance(location, tuple) else (location, WEIGHTS)
    repo_id, _, revision = str(hub_id).partition("@")
    own = resolved.get("source") == "hf-hub"  # then timm has just read the config of the same repo
    repo = _where_config_came_from(repo_id, revision, cache_dir) if own else Repo(hub_id, cache_dir=cache_dir)
    if not repo.has(filename):
        raise WeightsError(no_safetensors(repo.place))
    return repo.file(filename)


def _where_config_came_from(repo_id: str, revision: str, cache_dir: str | Path | None) -> Repo:
    """The repo at the commit whose config timm has read, so that weights and config belong together."""
    read = try_to_load_from_cache(repo_id, CONFIG, cache_dir=cache_dir, revision=revision or None)
    if not isinstance(read, str):
        return Repo(repo_id, revision or None, cache_dir=cache_dir)
    repo, content = Repo(repo_id, Path(read).parent.name, cache_dir=cache_dir), Path(read).read_bytes()
    if repo.file(CONFIG).read_bytes() != content:
        raise HubError(f"{repo_id}: {CONFIG} was damaged in the cache; it is whole again now. Create the model again")
    check_config(repo.file(CONFIG), repo.place)
    return repo
