"""Discussions and pull requests of a local Hub: each is a list of events, of which the first opens it.

The content of pull request N is the ref `pr/N`; who opened, commented, closed or merged it is kept here.
"""

import time
from collections.abc import Mapping
from typing import Any

from .answers import iso
from .store import Conflict, NotFound, Store

__all__ = ["Discussions"]

OPENING = ("discussion", "pull-request")


class Discussions:
    """The discussions of all repos."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def next_number(self, repo: str) -> int:
        """The number that the next discussion or pull request will have."""
        with self.store.database() as db:
            (last,) = db.execute("SELECT MAX(num) FROM events WHERE repo = ?", (repo,)).fetchone()
        return (last or 0) + 1

    def add(self, repo: str, num: int, kind: str, text: str, author: str) -> dict[str, Any]:
        """Add an event: one of `OPENING`, "comment" or "status-change"; its text is the title, comment or status."""
        event = (repo, num, kind, text, author, time.time())
        with self.store.database(write=True) as db:
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", event)
        return _event(*event[2:])

    def all(self, repo: str) -> dict[str, Any]:
        """All discussions and pull requests, the newest first, as the Hub lists them."""
        found = [self.details(repo, num) for num in range(self.next_number(repo) - 1, 0, -1)]
        return {"discussions": found, "count": len(found), "start": 0}

    def details(self, repo: str, num: int) -> dict[str, Any]:
        """One of them with its events, as the Hub writes it.

        Raises:
            NotFound: There is none of this number.
        """
        with self.store.database() as db:
            query = "SELECT kind, text, author, date FROM events WHERE repo = ? AND num = ? ORDER BY rowid"
            rows = db.execute(query, (repo, num)).fetchall()
        if not rows:
            raise NotFound(f"{repo} discussion {num}")
        kind, title, author, date = rows[0]
        about = {"num": num, "title": title, "createdAt": iso(date), "author": {"name": author}}
        status = [text for kind, text, *_ in rows if kind == "status-change"]
        found = {
            **about,
            "status": status[-1] if status else "open",
            "isPullRequest": kind == "pull-request",
            "repo": {"name": repo, "type": "model"},
            "events": [_event(*row) for row in rows[1:]],
        }
        return {**found, **self._changes(repo, num, found["status"])} if found["isPullRequest"] else found

    def _changes(self, repo: str, num: int, status: str) -> dict[str, Any]:
        refs = self.store.refs(repo)
        head, main = refs.get(f"pr/{num}"), refs["heads/main"]
        behind = status == "open" and main not in [commit.oid for commit in self.store.history(head)]
        merged = {"mergeCommitId": head} if status == "merged" else {}
        return {"changes": {"base": "refs/heads/main", **merged}, "filesWithConflicts": behind, "diff": ""}

    def answer(self, repo: str, author: str, path: list[str], asked: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a client posts: open one, comment on it, close, reopen or merge it.

        Raises:
            NotFound: There is none of this number, or no such action.
            Conflict: It cannot be merged, or has been.
        """
        if not path:
            num, kind = self.next_number(repo), OPENING[bool(asked["pullRequest"])]
            if asked["pullRequest"]:
                self.store.set_ref(repo, f"pr/{num}", self.store.resolve(repo, "main"))
            self.add(repo, num, kind, asked["title"], author)
            self.add(repo, num, "comment", asked["description"], author)
            return {"num": num}
        num, action = int(path[0]), "/".join(path[1:])
        about = self.details(repo, num)
        if action not in ("comment", "status", "merge"):
            raise NotFound(f"discussion {num} {action}")
        if action != "comment" and about["status"] == "merged":
            raise Conflict(f"pull request {num} was merged already")
        if action == "merge":
            if about["status"] != "open":
                raise Conflict(f"pull request {num} is {about['status']}; open it again before it is merged")
            self.store.merge(repo, f"pr/{num}")
        said = self.add(repo, num, "comment", asked["comment"], author) if asked.get("comment") else {}
        if action == "comment":
            return {"newMessage": said}
        status = "merged" if action == "merge" else asked["status"]
        return {"newStatus": self.add(repo, num, "status-change", status, author)}


def _event(kind: str, text: str, author: str, date: float) -> dict[str, Any]:
    when, who = iso(date), {"name": author}
    data: dict[str, Any] = {"status": text}
    if kind == "comment":
        latest = {"raw": text, "html": text, "updatedAt": when, "author": who}
        data = {"edited": False, "hidden": False, "latest": latest, "history": []}
    return {"id": f"{date:.6f}", "type": kind, "createdAt": when, "author": who, "data": data}
