"""Where a local Hub keeps repos: commits, refs and pull requests in SQLite, content as files by sha256.

A commit is there whole or not at all.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .._digest import git_blob_id
from .blobs import Blobs
from .names import Refused, checked_path, checked_ref, checked_repo, checked_tree

__all__ = ["Commit", "Draft", "File", "Store"]

FORMAT = 3
SCHEMA = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS repos (id TEXT PRIMARY KEY COLLATE NOCASE, private INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS commits (
    repo TEXT NOT NULL, oid TEXT NOT NULL, parent TEXT, title TEXT NOT NULL, message TEXT NOT NULL,
    author TEXT NOT NULL, date REAL NOT NULL, PRIMARY KEY (repo, oid)
);
CREATE TABLE IF NOT EXISTS files (
    repo TEXT NOT NULL, oid TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    git TEXT NOT NULL, lfs INTEGER NOT NULL, PRIMARY KEY (repo, oid, path)
);
CREATE INDEX IF NOT EXISTS content ON files (sha256);
CREATE TABLE IF NOT EXISTS refs (repo TEXT NOT NULL, name TEXT NOT NULL, oid TEXT NOT NULL, PRIMARY KEY (repo, name));
CREATE TABLE IF NOT EXISTS pulls (
    repo TEXT NOT NULL, num INTEGER NOT NULL, title TEXT NOT NULL, author TEXT NOT NULL, date REAL NOT NULL,
    status TEXT NOT NULL, PRIMARY KEY (repo, num)
);
CREATE TABLE IF NOT EXISTS uploads (
    repo TEXT NOT NULL, sha256 TEXT NOT NULL, date REAL NOT NULL, PRIMARY KEY (repo, sha256)
);
PRAGMA user_version = {FORMAT};
"""
LFS = ("safetensors", "bin", "pt", "pth", "onnx", "h5", "gz", "zip", "npz", "pkl")  # suffixes, whatever the size
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS).encode()


class File(NamedTuple):
    """One file of a commit."""

    path: str
    sha256: str
    size: int
    git: str
    """git's blob id of the content, or of its LFS pointer."""
    lfs: bool

    @property
    def etag(self) -> str:
        """What the Hub calls the content: sha256 of an LFS file, git's blob id of another."""
        return self.sha256 if self.lfs else self.git


class Commit(NamedTuple):
    """One state of a repo."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: float
    """Seconds since 1970, UTC."""


class Draft(NamedTuple):
    """What a commit says and changes."""

    title: str
    message: str
    author: str
    add: Mapping[str, File] = {}
    delete: Iterable[str] = ()
    """Paths of files and folders."""


class Store:
    """The folder of a local Hub; Refused if another version of this package wrote it."""

    def __init__(self, root: str | Path) -> None:
        self.root, self._own = Path(root), threading.local()
        self.blobs = Blobs(self.root / "blobs")
        self._file = self.root / "hub.sqlite"
        self._file.touch(0o600)
        with self.database() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != FORMAT and db.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise Refused(409, "Conflict", f"{root} has format {version}; expected {FORMAT}. Make a new folder")
            db.executescript(SCHEMA)

    @contextmanager
    def database(self, write: bool = False) -> Generator[sqlite3.Connection]:
        """This thread's connection; with `write`, in a transaction that is committed whole or not at all."""
        if (own := getattr(self._own, "db", None)) is not None:
            yield own
            return
        with closing(sqlite3.connect(self._file, timeout=30, isolation_level=None)) as db, db:
            db.execute("PRAGMA synchronous=FULL")
            if write:
                db.execute("BEGIN IMMEDIATE")
            self._own.db = db
            try:
                yield db
            finally:
                self._own.db = None

    def run(self, query: str, *values: object) -> list[Any]:
        """The rows of one statement."""
        with self.database() as db:
            return db.execute(query, values).fetchall()

    # repos

    def create_repo(self, repo: str, private: bool = False, author: str = "local") -> bool:
        """Make a repo with a first commit on `main`; returns False if the id is taken, whatever its upper case."""
        with self.database(write=True):
            if self.find(checked_repo(repo)):
                return False
            self.run("INSERT INTO repos VALUES (?, ?)", repo, private)
            first = self.small(".gitattributes", ATTRIBUTES)
            self._insert(repo, "heads/main", Draft("initial commit", "", author), None, [first])
        return True

    def delete_repo(self, repo: str) -> None:
        """Forget a repo; `fsck --gc` frees what only it held."""
        with self.database(write=True):
            for table in ("files", "commits", "refs", "pulls", "uploads"):
                self.run(f"DELETE FROM {table} WHERE repo = ?", repo)
            self.run("DELETE FROM repos WHERE id = ?", repo)

    def find(self, repo: str) -> tuple[str, bool] | None:
        """The id of a repo as it was made, and whether it is private."""
        rows = self.run("SELECT id, private FROM repos WHERE id = ?", repo)
        return (rows[0][0], bool(rows[0][1])) if rows else None

    def repos(self) -> dict[str, bool]:
        """Ids of all repos, and whether each is private."""
        return {repo: bool(private) for repo, private in self.run("SELECT * FROM repos ORDER BY id")}

    # refs

    def refs(self, repo: str) -> dict[str, str]:
        """`heads/main`, `tags/v1`, `pr/1` -> commit."""
        return dict(self.run("SELECT name, oid FROM refs WHERE repo = ? ORDER BY name", repo))

    def resolve(self, repo: str, revision: str) -> str:
        """The commit that a full sha, branch, tag or `refs/...` means, in this order."""
        if self.run("SELECT 1 FROM commits WHERE repo = ? AND oid = ?", repo, revision):
            return revision
        refs = self.refs(repo)
        names = [revision[5:]] if revision.startswith("refs/") else [f"heads/{revision}", f"tags/{revision}"]
        if known := next((refs[name] for name in names if name in refs), None):
            return known
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def move(self, repo: str, name: str, oid: str) -> None:
        """Make a ref, or move it."""
        self.run("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", repo, name, oid)

    def create_ref(self, repo: str, kind: str, name: str, oid: str) -> None:
        """Make a branch (`kind="heads"`) or tag (`"tags"`); Refused if git could not hold it beside the others."""
        checked_ref(name, "branch" if kind == "heads" else "tag")
        with self.database(write=True):
            known = [ref[len(kind) + 1 :] for ref in self.refs(repo) if ref.startswith(f"{kind}/")]
            if name in known:
                raise Refused(409, "Conflict", f"Reference refs/{kind}/{name} already exists")
            checked_tree([*known, name])
            self.move(repo, f"{kind}/{name}", oid)

    def delete_ref(self, repo: str, name: str) -> None:
        """Delete a branch or tag, but `main`."""
        if name == "heads/main":
            raise Refused(403, "Forbidden", "Cannot delete refs/heads/main")
        with self.database() as db:
            if not db.execute("DELETE FROM refs WHERE repo = ? AND name = ?", (repo, name)).rowcount:
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {name}")

    # pull requests: the content of number N is the ref `pr/N`

    def pulls(self, repo: str) -> list[int]:
        """Numbers of all pull requests of a repo, the newest first."""
        return [num for (num,) in self.run("SELECT num FROM pulls WHERE repo = ? ORDER BY num DESC", repo)]

    def pull(self, repo: str, num: int) -> tuple[str, str, float, str]:
        """Title, author, date and status (open, closed or merged) of a pull request."""
        rows = self.run("SELECT title, author, date, status FROM pulls WHERE repo = ? AND num = ?", repo, num)
        if not rows:
            raise Refused(404, "EntryNotFound", f"{repo} has no pull request {num}")
        return rows[0]

    def open_pull(self, repo: str, title: str, author: str, head: str) -> int:
        """Open a pull request at a commit; returns its number."""
        with self.database(write=True):
            num = max(self.pulls(repo), default=0) + 1
            self.run("INSERT INTO pulls VALUES (?, ?, ?, ?, ?, 'open')", repo, num, title, author, time.time())
            self.move(repo, f"pr/{num}", head)
        return num

    def behind(self, repo: str, num: int) -> bool:
        """Whether `main` has got commits since a pull request."""
        refs = self.refs(repo)
        return refs["heads/main"] not in [commit.oid for commit in self.history(repo, refs[f"pr/{num}"])]

    def set_status(self, repo: str, num: int, status: str) -> None:
        """Close, reopen or merge a pull request."""
        with self.database(write=True):
            was = self.pull(repo, num)[3]
            if was == "merged" or (status == "merged" and was != "open"):
                raise Refused(409, "Conflict", f"pull request {num} is {was}")
            if status == "merged":
                if self.behind(repo, num):
                    raise Refused(409, "Conflict", f"main has got other commits since; open a new one for {num}")
                self.move(repo, "heads/main", self.resolve(repo, f"refs/pr/{num}"))
            self.run("UPDATE pulls SET status = ? WHERE repo = ? AND num = ?", status, repo, num)

    # content and commits

    def small(self, path: str, content: bytes) -> File:
        """Keep the content of a file that does not go by LFS."""
        return File(path, self.blobs.put(content), len(content), git_blob_id(content), lfs=False)

    def files(self, repo: str, oid: str) -> dict[str, File]:
        """Files of a commit by path."""
        query = "SELECT path, sha256, size, git, lfs FROM files WHERE repo = ? AND oid = ? ORDER BY path"
        return {row[0]: File(*row[:4], lfs=bool(row[4])) for row in self.run(query, repo, oid)}

    def history(self, repo: str, oid: str) -> list[Commit]:
        """A commit and those before it."""
        rows = self.run("SELECT oid, parent, title, message, author, date FROM commits WHERE repo = ?", repo)
        known = {row[0]: Commit(*row) for row in rows}
        line = [known[oid]]
        while parent := line[-1].parent:
            line.append(known[parent])
        return line

    def holds(self, repo: str, sha256: str) -> bool:
        """Whether content belongs to a repo: a commit of it has it, or it was uploaded to it."""
        query = "SELECT 1 FROM {} WHERE repo = ? AND sha256 = ? LIMIT 1"
        known = any(self.run(query.format(table), repo, sha256) for table in ("uploads", "files"))
        return known and self.blobs.size(sha256) is not None

    def uploaded(self, repo: str, sha256: str) -> None:
        """Remember that content was uploaded to a repo, so that its commits may name it."""
        self.run("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", repo, sha256, time.time())

    def commit(self, repo: str, ref: str, draft: Draft, parent: str = "") -> str:
        """Add and delete files in one step, and move a ref such as `heads/main` to the new commit, which is returned.

        Refused: the ref is not at `parent` (the start of an id), a path leads out of the repo, or content was not
        uploaded to this repo.
        """
        with self.database(write=True):
            head = self.resolve(repo, f"refs/{ref}")
            if not head.startswith(parent):
                said = "The branch was updated since you opened this page. Please refresh and try again."
                raise Refused(412, "PreconditionFailed", said)
            for file in draft.add.values():
                if self.blobs.size(file.sha256) != file.size or (file.lfs and not self.holds(repo, file.sha256)):
                    said = f"its content was not uploaded to {repo}, or has another size"
                    raise Refused(400, "BadRequest", f"{file.path}: {said}")
            files = {**_without(self.files(repo, head), draft.delete), **draft.add}
            checked_tree(files)
            return self._insert(repo, ref, draft, head, files.values())

    def _insert(self, repo: str, ref: str, draft: Draft, parent: str | None, files: Iterable[File]) -> str:
        """Write a commit, and move a ref to it; in the transaction of the caller."""
        text, files = (draft.title, draft.message, draft.author, time.time()), sorted(files)
        content = json.dumps([repo, parent, text, files])
        oid = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.add_commit(repo, Commit(oid, parent, *text), files)
        self.move(repo, ref, oid)
        return oid

    def add_commit(self, repo: str, commit: Commit, files: Iterable[File]) -> None:
        """Write a commit and its files, unless the repo has it; in the transaction of the caller."""
        if not self.run("SELECT 1 FROM commits WHERE repo = ? AND oid = ?", repo, commit.oid):
            self.run("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)", repo, *commit)
            for file in files:
                checked_path(file.path)
                self.run("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", repo, commit.oid, *file)


def _without(files: dict[str, File], paths: Iterable[str]) -> dict[str, File]:
    for path in paths:
        folder = f"{path.rstrip('/')}/"
        gone = [path] if path in files else [name for name in files if name.startswith(folder)]
        if not gone:
            raise Refused(404, "EntryNotFound", f"{path} is not in the repo")
        for name in gone:
            del files[name]
    return files
