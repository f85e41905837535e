"""Pull requests: a title, an author and a status; the content of number N is the ref `pr/N`."""

import time
from typing import Any

from .answers import iso
from .names import Refused
from .store import Store

__all__ = ["details", "listing", "open_pull", "set_status"]


def open_pull(store: Store, repo: str, title: str, author: str, head: str) -> int:
    """Open a pull request at a commit; returns its number."""
    with store.database(write=True):
        ((last,),) = store.run("SELECT COALESCE(MAX(num), 0) FROM pulls WHERE repo = ?", repo)
        store.run("INSERT INTO pulls VALUES (?, ?, ?, ?, ?, 'open')", repo, last + 1, title, author, time.time())
        store.move(repo, f"pr/{last + 1}", head)
    return last + 1


def listing(store: Store, repo: str) -> dict[str, Any]:
    """All of a repo, the newest first."""
    rows = store.run("SELECT num FROM pulls WHERE repo = ? ORDER BY num DESC", repo)
    return {"discussions": [details(store, repo, num) for (num,) in rows], "count": len(rows), "start": 0}


def details(store: Store, repo: str, num: int) -> dict[str, Any]:
    """A pull request as the Hub writes it."""
    rows = store.run("SELECT title, author, date, status FROM pulls WHERE repo = ? AND num = ?", repo, num)
    if not rows:
        raise Refused(404, "EntryNotFound", f"{repo} has no pull request {num}")
    title, author, date, status = rows[0]
    refs, head = store.refs(repo), store.resolve(repo, f"refs/pr/{num}")
    behind = status == "open" and refs["heads/main"] not in [commit.oid for commit in store.history(repo, head)]
    about = {"num": num, "title": title, "createdAt": iso(date), "author": {"name": author}, "status": status}
    changes = {"base": "refs/heads/main", "mergeCommitId": head if status == "merged" else None}
    state = {"isPullRequest": True, "changes": changes, "filesWithConflicts": behind, "diff": "", "events": []}
    return {**about, **state, "repo": {"name": repo, "type": "model"}}


def set_status(store: Store, repo: str, num: int, status: str, by: str) -> dict[str, Any]:
    """Close, reopen or merge a pull request; returns the event as the Hub writes it."""
    with store.database(write=True):
        about = details(store, repo, num)
        if about["status"] == "merged" or (status == "merged" and about["status"] != "open"):
            raise Refused(409, "Conflict", f"pull request {num} is {about['status']}")
        if status == "merged":
            if about["filesWithConflicts"]:
                raise Refused(409, "Conflict", f"main has got other commits since pull request {num}; open a new one")
            store.move(repo, "heads/main", store.refs(repo)[f"pr/{num}"])
        store.run("UPDATE pulls SET status = ? WHERE repo = ? AND num = ?", status, repo, num)
    event = {"id": "0", "type": "status-change", "createdAt": iso(time.time()), "author": {"name": by}}
    return {"newStatus": {**event, "data": {"status": status}}}
