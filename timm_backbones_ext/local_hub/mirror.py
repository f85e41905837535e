"""Copies of repos for networks without the Hub: one commit, under its own id, into the folder of a local Hub."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi

from .._digest import CHUNK
from ..errors import HubError
from ..transport import Repo
from .names import Refused, checked_ref, checked_repo, is_commit
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


def mirror(repo_id: str, root: str | Path, revision: str | None = None, *, token: str | bool | None = None) -> Mirrored:
    """Copy a commit of a repo, all of its files, to a local Hub; a lock file that names the commit stays right.

    A private repo is private here too. The branch that was asked for moves to the commit, unless it has commits that
    were made here; the commit can be had by its id in any case.

    Args:
        repo_id: "owner/name".
        root: Folder of the local Hub (`timm-ext hub serve ROOT`); made if it does not exist.
        revision: Branch, tag or commit; `main` by default.
        token: Access token; that of `hf auth login` by default.

    Raises:
        HubError: The repo cannot be read, or a file is not what the Hub recorded; the local Hub is as it was.
    """
    repo = Repo(repo_id, revision, token=token)
    contents = repo.contents()
    if not contents:
        raise HubError(f"{repo.place} has no files, or cannot be reached; nothing was copied")
    private = bool(HfApi(token=token).model_info(repo.id, revision=repo.commit).private)
    store, files = Store(root), []
    for name, content in contents.items():
        with repo.file(name).open("rb") as file:
            digest = store.blobs.put(iter(partial(file.read, CHUNK), b""))
        files.append(File(name, digest, content.size, str(content.git), content.sha256 is not None))
    kept = adopt(store, repo.id, repo.commit, files, repo.revision, private=private)
    return Mirrored(repo.commit, len(files), kept)


def adopt(store: Store, repo: str, oid: str, files: Iterable[File], revision: str, *, private: bool) -> str | None:
    """Hold a commit of another Hub under its own id; returns the branch that had to stay where it was."""
    if not is_commit(oid):
        raise Refused(400, "BadRequest", f"{oid!r} is no commit")
    checked_repo(repo)
    branches = set() if is_commit(revision) or revision.startswith("refs/") else {checked_ref(revision)}
    with store.database(write=True):
        store.run("INSERT OR IGNORE INTO repos VALUES (?, ?)", repo, private)
        store.run("UPDATE repos SET private = MAX(private, ?) WHERE id = ?", private, repo)
        store.add_commit(repo, Commit(oid, None, "mirrored", "", MIRROR, time.time()), files)
        known, kept = store.refs(repo), None
        for name in branches | ({"main"} - {ref[6:] for ref in known}):
            at = known.get(f"heads/{name}", oid)
            if at != oid and store.history(repo, at)[0].author != MIRROR:
                kept = name
            else:
                store.move(repo, f"heads/{name}", oid)
    return kept
