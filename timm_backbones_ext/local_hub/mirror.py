"""Copies of repos for networks without the Hub: one commit, under its own id, into the folder of a local Hub."""

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi

from .._digest import CHUNK
from ..errors import HubError
from ..transport import Repo
from .names import checked_ref, checked_repo, is_commit
from .store import Commit, File, Store

__all__ = ["Mirrored", "adopt", "mirror"]

MIRROR = "another Hub"
"""Author of commits that came from there; no user has a name of two words."""


@dataclass(frozen=True)
class Mirrored:
    """What a mirror run copied."""

    commit: str
    files: int
    kept: str | None = None
    """Branch that was not moved, since it has commits that were made here."""
    base: str | None = None
    """Base of a difference, as "owner/name@commit"; it was copied too."""


def mirror(repo_id: str, root: str | Path, revision: str | None = None, *, token: str | bool | None = None) -> Mirrored:
    """Copy a commit of a repo, all of its files, to a local Hub, under its own id, as a lock file names it.

    The base of a difference (`save(delta=True)`) is copied first. A private repo is private here too. The branch that
    was asked for moves to the commit, unless it has commits that were made here.

    Args:
        repo_id: "owner/name".
        root: Folder of the local Hub (`timm-ext hub serve ROOT`); made if it does not exist.
        revision: Branch, tag or commit; `main` by default.
        token: Access token; that of `hf auth login` by default.

    Raises:
        HubError: The repo or its base cannot be read, or a file is not what the Hub recorded; the local Hub does not
            have the repo then.
    """
    repo = Repo(repo_id, revision, token=token)
    base = _base_of(repo)
    if base:
        _copy(Repo(*base, token=token), root)
    return replace(_copy(repo, root), base="@".join(base) if base else None)


def _base_of(repo: Repo) -> tuple[str, str] | None:
    """Id and commit of the base that a repo holds the difference to; None for a whole one."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        config = repo.file("config.json").read_bytes() if repo.has("config.json") else b"{}"
        base = json.loads(config)["timm_backbones_ext"]["delta"]["base"]
        return str(base["repo"]), str(base["commit"])
    return None


def _copy(repo: Repo, root: str | Path) -> Mirrored:
    """Copy the files of one commit."""
    contents = repo.contents()
    if not contents:
        raise HubError(f"{repo.place} has no files, or cannot be reached; nothing was copied")
    private = bool(HfApi(token=repo.token).model_info(repo.id, revision=repo.commit).private)
    store, files = Store(root), []
    for name, content in contents.items():
        with repo.file(name).open("rb") as file:
            digest = store.blobs.put(iter(partial(file.read, CHUNK), b""))
        files.append(File(name, digest, content.size, str(content.git), content.sha256 is not None))
    kept = adopt(store, repo.id, repo.commit, files, repo.revision, private=private)
    return Mirrored(repo.commit, len(files), kept)


def adopt(store: Store, repo: str, oid: str, files: Iterable[File], revision: str, *, private: bool) -> str | None:
    """Hold a commit of another Hub under its own id; returns the branch that had to stay where it was."""
    branches = set() if is_commit(revision) or revision.startswith("refs/") else {checked_ref(revision)}
    with store.database(write=True):
        once_private = "ON CONFLICT (id) DO UPDATE SET private = MAX(private, excluded.private)"
        store.run(f"INSERT INTO repos VALUES (?, ?) {once_private}", checked_repo(repo), private)
        store.add_commit(repo, Commit(oid, None, "mirrored", "", MIRROR, time.time()), files)
        known, kept = store.refs(repo), None
        for name in branches | ({"main"} - {ref[6:] for ref in known}):
            at = known.get(f"heads/{name}", oid)
            if at != oid and store.history(repo, at)[0].author != MIRROR:
                kept = name
            else:
                store.move(repo, f"heads/{name}", oid)
    return kept
