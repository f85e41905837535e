"""Where a local Hub keeps repos: files by their sha256, commits and refs in SQLite.

A commit is there whole or not at all. Standard library only.
"""

import hashlib
import json
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .._digest import CHUNK, sha256_of

__all__ = ["Conflict", "File", "NotFound", "Store"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS repos (id TEXT PRIMARY KEY, private INTEGER NOT NULL, gated TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS moves (old TEXT PRIMARY KEY, new TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commits (
    oid TEXT PRIMARY KEY, repo TEXT NOT NULL, parent TEXT, title TEXT NOT NULL, message TEXT NOT NULL,
    date REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS files (
    oid TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, git TEXT NOT NULL,
    lfs INTEGER NOT NULL, PRIMARY KEY (oid, path)
);
CREATE TABLE IF NOT EXISTS refs (repo TEXT NOT NULL, name TEXT NOT NULL, oid TEXT NOT NULL, PRIMARY KEY (repo, name));
CREATE TABLE IF NOT EXISTS events (
    repo TEXT NOT NULL, num INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
    date REAL NOT NULL
);
"""
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_OID = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NotFound(LookupError):
    """A repo, revision or file that is not there."""


class Conflict(ValueError):
    """What is asked for contradicts what is stored."""


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    path: str
    sha256: str
    size: int
    git: str
    """git's blob id of the content."""
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub calls the content: sha256 of an LFS file, git's blob id of another."""
        return self.sha256 if self.lfs else self.git


@dataclass(frozen=True)
class Commit:
    """One state of a repo."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: float
    """Seconds since 1970, UTC."""


def checked_path(path: str) -> str:
    """A path inside a repo, as it came.

    Raises:
        Conflict: It is empty, absolute, leads out of the repo or into `.git`.
    """
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..", ".git") for part in parts):
        raise Conflict(f"{path!r} is no path inside a repo")
    return path


class Store:
    """The folder of a local Hub."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.blobs = self.root / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        with self.database() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA)

    @contextmanager
    def database(self, write: bool = False) -> Generator[sqlite3.Connection]:
        """A connection; with `write`, one transaction that is committed at the end or leaves nothing behind."""
        with closing(sqlite3.connect(self.root / "hub.sqlite", timeout=30, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=FULL")
            if not write:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def create_repo(self, repo: str, private: bool = False) -> None:
        """Make a repo with one empty commit on `main`.

        Raises:
            Conflict: The id is none, or is taken.
        """
        if not _REPO_ID.fullmatch(repo):
            raise Conflict(f"{repo!r} is no repo id; expected 'owner/name'")
        with self.database(write=True) as db:
            if db.execute("SELECT 1 FROM repos WHERE id = ?", (repo,)).fetchone():
                raise Conflict(f"{repo} exists already")
            db.execute("INSERT INTO repos (id, private) VALUES (?, ?)", (repo, private))
            self._insert_commit(db, repo, "heads/main", None, "initial commit", "", [])

    def delete_repo(self, repo: str) -> None:
        """Forget a repo; its blobs stay, since others may share them."""
        self.facts(repo)
        with self.database(write=True) as db:
            db.execute("DELETE FROM files WHERE oid IN (SELECT oid FROM commits WHERE repo = ?)", (repo,))
            for table, column in (("commits", "repo"), ("refs", "repo"), ("events", "repo"), ("repos", "id")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (repo,))

    def facts(self, repo: str) -> tuple[bool, str]:
        """Whether a repo is private, and how it is gated: "", "auto" or "manual"; NotFound if there is none."""
        with self.database() as db:
            row = db.execute("SELECT private, gated FROM repos WHERE id = ?", (repo,)).fetchone()
        if row is None:
            raise NotFound(repo)
        return bool(row[0]), row[1]

    def set_private(self, repo: str, private: bool) -> None:
        """Make a repo private or public."""
        with self.database(write=True) as db:
            db.execute("UPDATE repos SET private = ? WHERE id = ?", (private, repo))

    def set_gated(self, repo: str, gated: str) -> None:
        """Let people ask for access, or not ("")."""
        with self.database(write=True) as db:
            db.execute("UPDATE repos SET gated = ? WHERE id = ?", (gated, repo))

    def move_repo(self, old: str, new: str) -> None:
        """Rename a repo; the old id leads to the new one.

        Raises:
            Conflict: The new id is none, or is taken.
        """
        if not _REPO_ID.fullmatch(new) or new in self.repos():
            raise Conflict(f"{new!r} is no repo id, or is taken")
        self.facts(old)
        with self.database(write=True) as db:
            columns = {"commits": "repo", "refs": "repo", "events": "repo", "repos": "id", "moves": "new"}
            for table, column in columns.items():
                db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
            db.execute("INSERT OR REPLACE INTO moves VALUES (?, ?)", (old, new))

    def moved_to(self, repo: str) -> str | None:
        """The new id of a repo that was renamed."""
        with self.database() as db:
            row = db.execute("SELECT new FROM moves WHERE old = ?", (repo,)).fetchone()
        return row[0] if row else None

    def repos(self) -> list[str]:
        """Ids of all repos."""
        with self.database() as db:
            return [row[0] for row in db.execute("SELECT id FROM repos ORDER BY id")]

    def refs(self, repo: str) -> dict[str, str]:
        """`heads/main`, `tags/v1`, `pr/1` -> commit."""
        with self.database() as db:
            return dict(db.execute("SELECT name, oid FROM refs WHERE repo = ? ORDER BY name", (repo,)).fetchall())

    def resolve(self, repo: str, revision: str) -> str:
        """The commit that a branch, tag, `refs/...` or full sha means."""
        refs = self.refs(repo)
        for name in (f"heads/{revision}", f"tags/{revision}", revision.removeprefix("refs/")):
            if name in refs:
                return refs[name]
        if _OID.fullmatch(revision):
            with self.database() as db:
                if db.execute("SELECT 1 FROM commits WHERE repo = ? AND oid = ?", (repo, revision)).fetchone():
                    return revision
        raise NotFound(f"{repo}@{revision}")

    def set_ref(self, repo: str, name: str, oid: str | None) -> None:
        """Make a new ref, or delete one with `oid=None`."""
        with self.database(write=True) as db:
            taken = db.execute("SELECT 1 FROM refs WHERE repo = ? AND name = ?", (repo, name)).fetchone()
            if oid is None:
                if not taken:
                    raise NotFound(name)
                db.execute("DELETE FROM refs WHERE repo = ? AND name = ?", (repo, name))
            elif taken:
                raise Conflict(f"{name} exists already")
            else:
                db.execute("INSERT INTO refs VALUES (?, ?, ?)", (repo, name, oid))

    def files(self, oid: str) -> dict[str, File]:
        """Files of a commit by path."""
        with self.database() as db:
            rows = db.execute("SELECT path, sha256, size, git, lfs FROM files WHERE oid = ? ORDER BY path", (oid,))
            return {row[0]: File(*row[:4], lfs=bool(row[4])) for row in rows}

    def history(self, oid: str | None) -> Iterator[Commit]:
        """A commit and those before it."""
        while oid is not None:
            with self.database() as db:
                row = db.execute(
                    "SELECT oid, parent, title, message, date FROM commits WHERE oid = ?", (oid,)
                ).fetchone()
            yield (commit := Commit(*row))
            oid = commit.parent

    def merge(self, repo: str, name: str, into: str = "heads/main") -> None:
        """Move a branch to a pull request that was built on it.

        Raises:
            Conflict: The branch has got other commits since.
        """
        refs = self.refs(repo)
        if name not in refs:
            raise NotFound(name)
        if refs[into] not in [commit.oid for commit in self.history(refs[name])]:
            raise Conflict(f"{into} has got other commits since {name} was opened; open a new one")
        with self.database(write=True) as db:
            db.execute("UPDATE refs SET oid = ? WHERE repo = ? AND name = ?", (refs[name], repo, into))

    def adopt(self, repo: str, oid: str, files: Iterable[File], revision: str) -> None:
        """Hold a commit of another Hub under its own id, as `main` and as the branch or commit it was asked for by."""
        if not _OID.fullmatch(oid):
            raise Conflict(f"{oid!r} is no commit")
        with self.database(write=True) as db:
            db.execute("INSERT OR IGNORE INTO repos (id, private) VALUES (?, 0)", (repo,))
            known = db.execute("SELECT 1 FROM commits WHERE oid = ?", (oid,)).fetchone()
            if not known:
                db.execute("INSERT INTO commits VALUES (?, ?, NULL, ?, '', ?)", (oid, repo, "mirrored", time.time()))
                rows = [(oid, file.path, file.sha256, file.size, file.git, file.lfs) for file in files]
                db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
            for name in {"main", revision} - {oid}:
                db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", (repo, f"heads/{name}", oid))

    def commit(
        self,
        repo: str,
        ref: str,
        *,
        title: str,
        message: str = "",
        add: Mapping[str, File] | None = None,
        delete: Iterable[str] = (),
        parent: str | None = None,
        start: str | None = None,
    ) -> str:
        """Add and delete files in one step, and move a ref to the new commit.

        Args:
            repo: The repo.
            ref: `heads/main` or another; made from `start` if it is not there.
            title: First line of the message.
            message: The rest of it.
            add: Files by path; their blobs are stored already.
            delete: Paths; one that ends in "/" is a folder.
            parent: Commit that the ref has to be at.
            start: Commit that a new ref starts from.

        Returns:
            The new commit.

        Raises:
            Conflict: The ref is not at `parent`, a path leads out of the repo, or a blob is missing.
        """
        add = {checked_path(path): file for path, file in (add or {}).items()}
        for file in add.values():
            if not self.blob(file.sha256).is_file():
                raise Conflict(f"{file.path}: content {file.sha256} was not uploaded")
        with self.database(write=True) as db:
            row = db.execute("SELECT oid FROM refs WHERE repo = ? AND name = ?", (repo, ref)).fetchone()
            head = row[0] if row else start
            if head is None:
                raise NotFound(f"{repo}@{ref}")
            if parent is not None and parent != head:
                raise Conflict(f"{ref} is at {head}, not at {parent}")
            files = self.files(head)
            for path in delete:
                gone = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
                if not gone:
                    raise NotFound(path)
                for name in gone:
                    del files[name]
            return self._insert_commit(db, repo, ref, head, title, message, {**files, **add}.values())

    def _insert_commit(
        self,
        db: sqlite3.Connection,
        repo: str,
        ref: str,
        parent: str | None,
        title: str,
        message: str,
        files: Iterable[File],
    ) -> str:
        files, now = list(files), time.time()
        content = json.dumps([repo, parent, title, message, now, sorted((file.path, file.sha256) for file in files)])
        oid = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        db.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?)", (oid, repo, parent, title, message, now))
        rows = [(oid, file.path, file.sha256, file.size, file.git, file.lfs) for file in files]
        db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)
        db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", (repo, ref, oid))
        return oid

    def blob(self, sha256: str) -> Path:
        """Where content is kept; the file is there only if it is whole."""
        if not _SHA256.fullmatch(sha256):
            raise Conflict(f"{sha256!r} is no sha256")
        return self.blobs / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        """Keep content; returns its sha256."""
        sha256 = hashlib.sha256(content).hexdigest()
        with self.incoming(sha256) as file:
            file.write(content)
        return sha256

    def put_file(self, path: Path) -> str:
        """Keep a copy of a file; returns its sha256."""
        sha256 = sha256_of(path)
        if not self.blob(sha256).is_file():
            with self.incoming(sha256) as target, path.open("rb") as source:
                while chunk := source.read(CHUNK):
                    target.write(chunk)
        return sha256

    @contextmanager
    def incoming(self, sha256: str) -> Generator["Incoming"]:
        """A file to write content to, which is kept at the end if its hash is right.

        Raises:
            Conflict: The hash is another one; nothing is kept.
        """
        target = self.blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.blobs, prefix="incoming-")
        try:
            with os.fdopen(handle, "wb") as raw:
                yield (incoming := Incoming(raw))
                raw.flush()
                os.fsync(raw.fileno())
            if (got := incoming.hash.hexdigest()) != sha256:
                raise Conflict(f"expected content with sha256 {sha256}; got {got}")
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)


class Incoming:
    """A file that is hashed as it is written."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.hash = raw, hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self.raw.write(chunk)
        self.hash.update(chunk)
