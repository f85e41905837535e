"""Discussions and pull requests: each is a list of events, of which the first opens it.

The content of pull request N is the ref `pr/N`. Every function works in the transaction of its caller, so that a
number, its ref and its events are there together or not at all.
"""

import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from .answers import iso
from .names import Refused
from .store import history_of, refs_of

__all__ = ["act", "add", "details", "edit", "listing", "opened", "proposed"]

COMMENT, STATUS, TITLE, PULL_REQUEST = "comment", "status-change", "title-change", "pull-request"
EVENTS = "SELECT rowid, kind, text, author, date, edited FROM events WHERE repo = ? AND num = ?"


def opened(db: sqlite3.Connection, repo: str, title: str, author: str, kind: str = "discussion") -> int:
    """Open a discussion; returns its number."""
    (last,) = db.execute("SELECT MAX(num) FROM events WHERE repo = ?", (repo,)).fetchone()
    add(db, repo, (last or 0) + 1, kind, title, author)
    return (last or 0) + 1


def proposed(db: sqlite3.Connection, repo: str, title: str, author: str) -> str:
    """Open a pull request; returns its ref, which the caller sets."""
    return f"pr/{opened(db, repo, title, author, PULL_REQUEST)}"


def listing(db: sqlite3.Connection, repo: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Discussions and pull requests, the newest first, by `type`, `status` and `author`."""
    rows = db.execute("SELECT DISTINCT num FROM events WHERE repo = ? ORDER BY num DESC", (repo,)).fetchall()
    kind, status, author = query.get("type", "all"), query.get("status", "all"), query.get("author")
    found = [
        item
        for item in (details(db, repo, num) for (num,) in rows)
        if (kind == "all" or item["isPullRequest"] == (kind == "pull_request"))
        and (status == "all" or (item["status"] == "open") == (status == "open"))
        and author in (None, item["author"]["name"])
    ]
    return {"discussions": found, "count": len(found), "start": 0}


def details(db: sqlite3.Connection, repo: str, num: int) -> dict[str, Any]:
    """One of them with its events, as the Hub writes it."""
    first, *rows = db.execute(f"{EVENTS} ORDER BY rowid", (repo, num)).fetchall() or [None]
    if first is None:
        raise Refused(404, "EntryNotFound", f"{repo} has no discussion {num}")
    _, kind, title, author, date, _ = first
    status, events = "open", []
    for row in rows:
        events.append(_event(*row, before=title))
        status, title = (row[2] if row[1] == STATUS else status), (row[2] if row[1] == TITLE else title)
    about = {"num": num, "title": title, "createdAt": iso(date), "author": {"name": author}, "status": status}
    about |= {"repo": {"name": repo, "type": "model"}, "events": events, "isPullRequest": kind == PULL_REQUEST}
    if kind == PULL_REQUEST:
        refs = refs_of(db, repo)
        head = refs[f"pr/{num}"]
        behind = status == "open" and refs["heads/main"] not in [commit.oid for commit in history_of(db, repo, head)]
        merged = {"mergeCommitId": head} if status == "merged" else {}
        about |= {"changes": {"base": "refs/heads/main", **merged}, "filesWithConflicts": behind, "diff": ""}
    return about


def act(
    db: sqlite3.Connection, repo: str, num: int, action: str, said: Mapping[str, str], author: str
) -> dict[str, Any]:
    """Do what a client posts: comment, rename, close, reopen or merge."""
    about = details(db, repo, num)
    if action == "comment":
        return {"newMessage": add(db, repo, num, COMMENT, said["comment"], author)}
    if action == "title":
        return {"newTitle": add(db, repo, num, TITLE, said["title"], author, about["title"])}
    if about["status"] == "merged" or (action == "merge" and not about["isPullRequest"]):
        raise Refused(409, "Conflict", f"{num} was merged already, or is no pull request")
    if action == "merge":
        if about["status"] != "open":
            raise Refused(409, "Conflict", f"pull request {num} is closed; open it again before it is merged")
        if about["filesWithConflicts"]:
            raise Refused(409, "Conflict", f"main has got other commits since pull request {num}; open a new one")
        to = refs_of(db, repo)[f"pr/{num}"]
        db.execute("UPDATE refs SET oid = ? WHERE repo = ? AND name = 'heads/main'", (to, repo))
    status = "merged" if action == "merge" else said["status"]
    if status not in ("open", "closed", "merged") or (status == "merged") != (action == "merge"):
        raise Refused(400, "BadRequest", f"expected the status open or closed; got {status!r}")
    if said.get("comment"):
        add(db, repo, num, COMMENT, said["comment"], author)
    return {"newStatus": add(db, repo, num, STATUS, status, author)}


def edit(db: sqlite3.Connection, repo: str, num: int, comment: str, text: str, author: str) -> dict[str, Any]:
    """Change a comment of one's own."""
    row = int(comment, 16) if comment.isalnum() and len(comment) < 16 else 0
    change = (
        "UPDATE events SET text = ?, edited = 1 WHERE rowid = ? AND repo = ? AND num = ? AND kind = ? AND author = ?"
    )
    if not db.execute(change, (text, row, repo, num, COMMENT, author)).rowcount:
        raise Refused(404, "EntryNotFound", f"{author} has no comment {comment} in discussion {num}")
    return {"updatedComment": _event(*db.execute(f"{EVENTS} AND rowid = ?", (repo, num, row)).fetchone())}


def add(
    db: sqlite3.Connection, repo: str, num: int, kind: str, text: str, author: str, before: str = ""
) -> dict[str, Any]:
    """Add an event."""
    columns, now = "(repo, num, kind, text, author, date)", time.time()
    row = (repo, num, kind, text, author, now)
    rowid = db.execute(f"INSERT INTO events {columns} VALUES (?, ?, ?, ?, ?, ?)", row).lastrowid
    return _event(rowid or 0, kind, text, author, now, 0, before)


def _event(row: int, kind: str, text: str, author: str, date: float, edited: int, before: str = "") -> dict[str, Any]:
    when, who = iso(date), {"name": author}
    latest = {"raw": text, "html": "", "updatedAt": when, "author": who}
    data: dict[str, dict[str, Any]] = {
        COMMENT: {"edited": bool(edited), "hidden": False, "latest": latest, "history": []},
        STATUS: {"status": text},
        TITLE: {"from": before, "to": text},
    }
    return {"id": f"{row:x}", "type": kind, "createdAt": when, "author": who, "data": data.get(kind, {})}
