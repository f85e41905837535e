"""What a push would change, worked out before anything is sent."""

import json
import re
from dataclasses import dataclass, replace
from difflib import ndiff
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from .._digest import git_blob_id, sha256_of
from ..errors import HubError
from ..registry import VARIANTS
from ..saving.card import REPO_PLACEHOLDER, merge_cards
from ..saving.manifest import write_manifest
from ..transport import CLIENT, Repo, listing, persist
from ..transport.fetch import Content
from ..weights.files import CARD, CONFIG, DETECTOR, EXPORTED, FILES, HINT, SIGNATURE, WEIGHTS, read_header

__all__ = ["Change", "Plan", "make_plan"]

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


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

    def same_as(self, held: Content) -> bool:
        """Whether a file of a repo has the same content; its hash decides."""
        return held.sha256 == self.sha256 if held.sha256 else held.git == self.git


@dataclass(frozen=True)
class Plan:
    """What a push would do to a repo."""

    repo: str
    revision: str
    parent: str | None
    """The commit that it builds on; none if the repo is new."""
    changes: tuple[Change, ...]
    pickles: tuple[str, ...] = ()
    """Old pickles in the repo, which people may still load."""
    stale: tuple[str, ...] = ()
    """Exported files in the repo that were made of other weights; the commit deletes them."""
    details: tuple[str, ...] = ()
    """Lines that say what differs from the repo's files: in the config, in keys and shapes, in the card."""

    @property
    def unchanged(self) -> bool:
        """Whether the repo holds all of these files already."""
        return all(change.status == "unchanged" for change in self.changes)


def make_plan(
    folder: Path,
    repo_id: str,
    *,
    revision: str | None,
    tag: str | None,
    token: Any,
    force: bool,
    details: bool = False,
) -> Plan:
    """Compare a folder with what a repo holds; the card in the folder becomes the one to send.

    Raises:
        HubError: The repo holds another architecture and `force` is false, or it has the tag already.
        ValueError: The tag is not a valid name.
    """
    api = HfApi(token=token, **CLIENT)
    parent, has = _held(api, repo_id, revision)
    remote = Repo(repo_id, parent, token=token) if parent else None
    old = (
        {name: remote.file(name).read_text(encoding="utf-8") for name in (CONFIG, CARD) if name in has}
        if remote
        else {}
    )
    if CONFIG in old and not force:
        _require_same_base(old[CONFIG], folder / CONFIG, repo_id)
    _require_free_tag(api, repo_id, tag, new=parent is None)
    card = (folder / CARD).read_text(encoding="utf-8").replace(REPO_PLACEHOLDER, repo_id)
    (folder / CARD).write_text(merge_cards(old.get(CARD, ""), card), encoding="utf-8")
    write_manifest(folder)
    sent = [name for name in (*FILES, *DETECTOR, SIGNATURE, *EXPORTED) if (folder / name).is_file()]
    changes = tuple(_change(folder, name, has.get(name)) for name in sent)
    same = any((change.name, change.status) == (WEIGHTS, "unchanged") for change in changes)
    stale = () if same else tuple(name for name in EXPORTED if name in has and name not in sent)
    pickles = tuple(sorted(name for name in has if name.endswith(PICKLES)))
    lines = _details(folder, old, remote, has) if details and remote else ()
    return Plan(repo_id, revision or "main", parent, changes, pickles, stale, tuple(lines))


def _held(api: HfApi, repo_id: str, revision: str | None) -> tuple[str | None, dict[str, Content]]:
    """Commit and files of the branch, or of `main` where a new branch will start; no commit if there is no repo."""
    for name in dict.fromkeys((revision, None)):
        try:
            return persist(lambda name=name: listing(api.model_info(repo_id, revision=name, files_metadata=True)))
        except RepositoryNotFoundError:
            return None, {}
        except RevisionNotFoundError:
            continue
    return None, {}


def _require_free_tag(api: HfApi, repo_id: str, tag: str | None, *, new: bool) -> None:
    if tag is None:
        return
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith((".lock", ".", "/")):
        raise ValueError(f"{tag!r} is not a valid tag; expected letters, digits and . _ - / inside")
    if not new and tag in persist(lambda: [item.name for item in api.list_repo_refs(repo_id).tags]):
        raise HubError(f"nothing was sent: {repo_id} has a tag {tag!r} already; choose another one")


def _require_same_base(old: str, new: Path, repo_id: str) -> None:
    holds, comes = _base_of(old), _base_of(new.read_text(encoding="utf-8"))
    if holds != comes:
        raise HubError(
            f"nothing was sent: {repo_id} holds a {holds}, and this is a {comes}; force the push to replace it"
        )


def _base_of(config: str) -> str:
    """The timm architecture that a config's model starts from."""
    try:
        name = str(json.loads(config).get("architecture")).removesuffix(f".{HINT}")
    except (ValueError, AttributeError, RecursionError):
        return "model that this version does not know"
    return VARIANTS[name].base if name in VARIANTS else name


def _change(folder: Path, name: str, held: Content | None) -> Change:
    path = folder / name
    change = Change(name, path.stat().st_size, sha256_of(path), git_blob_id(path.read_bytes()), "new")
    return change if held is None else replace(change, status="unchanged" if change.same_as(held) else "changed")


def _details(folder: Path, old: dict[str, str], remote: Any, has: dict[str, Content]) -> list[str]:
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
    """Tensors that are added, removed or reshaped; only the header of the repo's file is read."""
    api = HfApi(token=remote.token, **CLIENT)
    try:
        there = persist(lambda: api.parse_safetensors_file_metadata(remote.id, WEIGHTS, revision=remote.commit)).tensors
    except (HfHubHTTPError, ValueError) as error:
        return [f"weights: the repo's file cannot be compared ({error})"]
    before = {key: tuple(info.shape) for key, info in there.items()}
    after = {key: tuple(value.shape) for key, value in read_header(folder / WEIGHTS).items()}
    lines = [f"weights: + {key} {after[key]}" for key in after.keys() - before.keys()]
    lines += [f"weights: - {key} {before[key]}" for key in before.keys() - after.keys()]
    changed = [key for key in after.keys() & before.keys() if after[key] != before[key]]
    return sorted(lines + [f"weights: {key} {before[key]} -> {after[key]}" for key in changed])
