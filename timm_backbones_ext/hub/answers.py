"""How the Hub writes what a local Hub answers: files, commits, refs and dates as JSON."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .store import Commit, File

__all__ = ["commit_entry", "iso", "model_info", "origin", "refs", "tree_entry", "validate_yaml"]


def origin(request: Request) -> str:
    """Scheme, host and port that the client called."""
    return f"http://{request.headers['host']}"


def iso(seconds: float) -> str:
    """A date as the Hub writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def tree_entry(file: File) -> dict[str, Any]:
    """A file as the tree and the paths of a repo list it."""
    entry: dict[str, Any] = {"type": "file", "oid": file.git, "size": file.size, "path": file.path}
    return {**entry, "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.lfs else entry


def commit_entry(commit: Commit) -> dict[str, Any]:
    """A commit as the history of a repo lists it."""
    text = {"title": commit.title, "message": commit.message}
    return {"id": commit.oid, **text, "authors": [{"user": "local"}], "date": iso(commit.date)}


def refs(known: Mapping[str, str]) -> dict[str, Any]:
    """Branches, tags and pull requests."""
    found: dict[str, list[dict[str, str]]] = {"heads": [], "tags": [], "pr": []}
    for name, oid in known.items():
        kind, _, short = name.partition("/")
        found[kind].append({"name": short, "ref": f"refs/{name}", "targetCommit": oid})
    return {"branches": found["heads"], "tags": found["tags"], "converts": [], "pullRequests": found["pr"]}


def validate_yaml(asked: Mapping[str, Any]) -> Response:
    """Whether the metadata of a card can be read."""
    parts = asked["content"].split("---\n", 2)
    try:
        metadata = yaml.safe_load(parts[1]) if asked["content"].startswith("---\n") and len(parts) == 3 else {}
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return JSONResponse({"errors": [], "warnings": warnings})


def model_info(repo: str, newest: Commit, files: Mapping[str, File], facts: tuple[bool, str]) -> dict[str, Any]:
    """A repo at a commit; `facts` are whether it is private and how it is gated."""
    private, gated = facts
    info = {
        "id": repo,
        "modelId": repo,
        "author": repo.partition("/")[0],
        "sha": newest.oid,
        "tags": [],
        "downloads": 0,
    }
    state = {"private": private, "gated": gated or False, "disabled": False, "lastModified": iso(newest.date)}
    siblings = []
    for path, file in files.items():
        item = {"rfilename": path, **tree_entry(file), "blobId": file.git}
        if file.lfs:
            item["lfs"] = {"sha256": file.sha256, **item["lfs"]}
        siblings.append(item)
    return {**info, **state, "siblings": siblings}
