"""How the Hub writes what a local Hub answers: files, commits, refs and dates as JSON."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .store import Commit, File, Store

__all__ = ["commit_entry", "model_info", "pull", "refs", "status_change", "tree"]


def _iso(seconds: float) -> str:
    """A date as the Hub writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def tree(files: Mapping[str, File]) -> dict[str, dict[str, Any]]:
    """Folders and files of a commit by path, as the tree lists them; folders have no id of their own here."""
    folders = sorted({path[:end] for path in files for end, letter in enumerate(path) if letter == "/"})
    found = {path: {"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders}
    return {**found, **{path: _entry(file) for path, file in files.items()}}


def _entry(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.git, "size": file.size, "path": file.path}
    if file.lfs:  # the tree calls the hash by one name, and a model by the other
        entry["lfs"] = {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


def commit_entry(commit: Commit) -> dict[str, Any]:
    """A commit as the history of a repo lists it."""
    about = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": _iso(commit.date)}
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
    dates = {"createdAt": _iso(history[-1].date), "lastModified": _iso(history[0].date)}
    siblings = [{"rfilename": path, "blobId": file.git, **_entry(file)} for path, file in files.items()]
    return {**about, **dates, "sha": history[0].oid, "siblings": siblings}


def pull(store: Store, repo: str, num: int) -> dict[str, Any]:
    """A pull request."""
    title, author, date, status = store.pull(repo, num)
    about = {"num": num, "title": title, "createdAt": _iso(date), "author": {"name": author}, "status": status}
    merged = store.resolve(repo, f"refs/pr/{num}") if status == "merged" else None
    changes = {"base": "refs/heads/main", "mergeCommitId": merged}
    behind = status == "open" and store.behind(repo, num)
    state = {"isPullRequest": True, "changes": changes, "filesWithConflicts": behind, "diff": "", "events": []}
    return {**about, **state, "repo": {"name": repo, "type": "model"}}


def status_change(status: str, author: str) -> dict[str, Any]:
    """What happened to a pull request just now."""
    event = {"id": "0", "type": "status-change", "createdAt": _iso(time.time()), "author": {"name": author}}
    return {"newStatus": {**event, "data": {"status": status}}}
