"""What a push would change, worked out before anything is written."""

import json
from dataclasses import dataclass, field
from difflib import ndiff
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from .._digest import git_blob_id, sha256_of
from ..errors import HubError
from ..saving.card import REPO_PLACEHOLDER, merge_cards
from ..transport import CLIENT, Repo, persist
from ..weights.files import CARD, CONFIG, DETECTOR, FILES, SIGNATURE, WEIGHTS, read_header
from .preflight import base_of

__all__ = ["Change", "Plan", "make_plan"]

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class Change:
    """One file of a push."""

    name: str
    size: int
    sha256: str
    git: str
    """git's blob id of the content."""
    status: str
    """"new", "changed" or "unchanged"."""


@dataclass(frozen=True)
class Plan:
    """What a push would do to a repo."""

    repo: str
    revision: str
    parent: str | None
    """The commit that it builds on; none if the repo or the branch is new."""
    changes: tuple[Change, ...]
    pickles: tuple[str, ...] = ()
    """Old pickles in the repo: people may still load them."""
    details: tuple[str, ...] = field(default=())
    """Lines that say what differs from what the repo holds: in the config, in keys and shapes, in the card."""

    @property
    def unchanged(self) -> bool:
        """Whether the repo holds all of it already."""
        return all(change.status == "unchanged" for change in self.changes)


def make_plan(folder: Path, repo_id: str, revision: str | None, token: Any, *, force: bool, details: bool) -> Plan:
    """Compare a folder with what a repo holds; the card in the folder becomes the one that will be sent.

    Raises:
        HubError: The repo holds another architecture, and `force` is false.
    """
    api = HfApi(token=token, **CLIENT)
    held = _held(api, repo_id, revision)
    remote = Repo(repo_id, held.sha, token=token) if held else None
    has = {item.rfilename: item for item in (held.siblings or ())} if held else {}
    old = _texts(remote, has) if remote else {}
    if CONFIG in old and not force:
        _require_same_base(old[CONFIG], folder / CONFIG, repo_id)
    card = (folder / CARD).read_text(encoding="utf-8").replace(REPO_PLACEHOLDER, repo_id)
    (folder / CARD).write_text(merge_cards(old.get(CARD, ""), card), encoding="utf-8")
    sent = [name for name in (*FILES, *DETECTOR, SIGNATURE) if (folder / name).is_file()]
    changes = tuple(_change(folder / name, has.get(name)) for name in sent)
    pickles = tuple(sorted(name for name in has if name.endswith(PICKLES)))
    lines = _details(folder, old, remote, has) if details and held else ()
    return Plan(repo_id, revision or "main", held.sha if held else None, changes, pickles, tuple(lines))


def _held(api: HfApi, repo_id: str, revision: str | None) -> Any:
    """The Hub's record of the branch, or of `main` where a new branch will start; None if there is no repo."""
    for name in dict.fromkeys((revision, None)):
        try:
            return persist(lambda name=name: api.model_info(repo_id, revision=name, files_metadata=True))
        except RepositoryNotFoundError:
            return None
        except RevisionNotFoundError:
            continue
    return None


def _texts(remote: Repo, has: dict[str, Any]) -> dict[str, str]:
    return {name: remote.file(name).read_text(encoding="utf-8") for name in (CONFIG, CARD) if name in has}


def _require_same_base(old: str, new: Path, repo_id: str) -> None:
    draft = new.with_name(".held.json")
    draft.write_text(old, encoding="utf-8")
    try:
        holds, comes = base_of(draft), base_of(new)
    except (ValueError, AttributeError):
        holds, comes = "something else", base_of(new)
    finally:
        draft.unlink()
    if holds != comes:
        raise HubError(f"nothing was sent: {repo_id} holds a {holds}, and this is a {comes}; force=True replaces it")


def _change(path: Path, held: Any) -> Change:
    sha256, git = sha256_of(path), git_blob_id(path.read_bytes())
    if held is None:
        status = "new"
    else:
        same = held.lfs.sha256 == sha256 if held.lfs else held.blob_id == git
        status = "unchanged" if same else "changed"
    return Change(path.name, path.stat().st_size, sha256, git, status)


def _details(folder: Path, old: dict[str, str], remote: Any, has: dict[str, Any]) -> list[str]:
    lines = []
    if CONFIG in old:
        lines += _differences(json.loads(old[CONFIG]), json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    if WEIGHTS in has:
        lines += _tensors(remote, folder)
    if CARD in old:
        new = (folder / CARD).read_text(encoding="utf-8")
        changed = [line for line in ndiff(old[CARD].splitlines(), new.splitlines()) if line[:2] in ("- ", "+ ")]
        lines += [f"card: {line}" for line in changed]
    return lines


def _differences(old: Any, new: Any, path: str = "config") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}")
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]


def _tensors(remote: Repo, folder: Path) -> list[str]:
    """Tensors that come, go or change their shape; only the header of the repo's file is read."""
    api = HfApi(token=remote.token, **CLIENT)
    try:
        there = persist(lambda: api.parse_safetensors_file_metadata(remote.id, WEIGHTS, revision=remote.commit)).tensors
    except (HfHubHTTPError, ValueError) as error:
        return [f"weights: what the repo holds cannot be compared ({error})"]
    before = {key: tuple(info.shape) for key, info in there.items()}
    after = {key: tuple(value.shape) for key, value in read_header(folder / WEIGHTS).items()}
    lines = [f"weights: + {key} {after[key]}" for key in after.keys() - before.keys()]
    lines += [f"weights: - {key} {before[key]}" for key in before.keys() - after.keys()]
    changed = [key for key in after.keys() & before.keys() if after[key] != before[key]]
    return sorted(lines + [f"weights: {key} {before[key]} -> {after[key]}" for key in changed])
