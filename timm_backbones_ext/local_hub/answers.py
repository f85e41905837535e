"""How the Hub writes what a local Hub answers: files, commits, refs and dates as JSON."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .store import Commit, File

__all__ = ["commit_entry", "iso", "model_info", "refs", "tree"]


def iso(seconds: float) -> str:
    """A date as the Hub writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def tree(files: Mapping[str, File]) -> dict[str, dict[str, Any]]:
    """Folders and files of a commit by path, as the tree lists them; the id of a folder follows from its content."""
    inside: dict[str, list[str]] = {}
    for path, file in files.items():
        while path := path.rpartition("/")[0]:
            inside.setdefault(path, []).append(f"{file.path} {file.git}")
    found: dict[str, dict[str, Any]] = {}
    for path, text in sorted(inside.items()):
        oid = hashlib.sha1("\n".join(text).encode(), usedforsecurity=False).hexdigest()
        found[path] = {"type": "directory", "path": path, "oid": oid, "size": 0}
    return {**found, **{path: _entry(file) for path, file in files.items()}}


def _entry(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.git, "size": file.size, "path": file.path}
    if file.lfs:  # the tree calls the hash by one name, and a model by the other
        entry["lfs"] = {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


def commit_entry(commit: Commit) -> dict[str, Any]:
    """A commit as the history of a repo lists it."""
    about = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": iso(commit.date)}
    return {**about, "authors": [{"user": commit.author}]}


def refs(known: Mapping[str, str]) -> dict[str, Any]:
    """Branches, tags and pull requests."""
    found: dict[str, list[dict[str, str]]] = {"heads": [], "tags": [], "pr": []}
    for name, oid in known.items():
        kind, _, short = name.partition("/")
        found[kind].append({"name": short, "ref": f"refs/{name}", "targetCommit": oid})
    return {"branches": found["heads"], "tags": found["tags"], "converts": [], "pullRequests": found["pr"]}


def model_info(repo: str, history: Sequence[Commit], files: Mapping[str, File], private: bool) -> dict[str, Any]:
    """A repo at the newest commit of a history."""
    about = {"id": repo, "author": repo.partition("/")[0], "private": private, "gated": False, "tags": []}
    dates = {"createdAt": iso(history[-1].date), "lastModified": iso(history[0].date)}
    siblings = [{"rfilename": path, "blobId": file.git, **_entry(file)} for path, file in files.items()]
    return {**about, **dates, "sha": history[0].oid, "siblings": siblings}
