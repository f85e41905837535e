"""Where a local Hub keeps repos: commits, refs and discussions in SQLite, content as files by sha256.

A commit is there whole or not at all.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .._digest import git_blob_id
from .blobs import Blobs
from .names import Refused, checked_path, checked_ref, checked_repo, checked_tree, is_commit

__all__ = ["Commit", "Draft", "File", "Store", "files_of", "history_of", "insert_commit", "refs_of"]

FORMAT = 2
SCHEMA = f"""
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
CREATE TABLE IF NOT EXISTS events (
    repo TEXT NOT NULL, num INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, author TEXT NOT NULL,
    date REAL NOT NULL, edited INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS uploads (
    repo TEXT NOT NULL, sha256 TEXT NOT NULL, date REAL NOT NULL, PRIMARY KEY (repo, sha256)
);
PRAGMA user_version = {FORMAT};
"""
LFS = ("safetensors", "bin", "pt", "pth", "onnx", "h5", "gz", "zip", "npz", "pkl")
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS).encode()
"""`.gitattributes` of a new repo: what goes by LFS, whatever its size."""


@dataclass(frozen=True)
class File:
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


@dataclass(frozen=True)
class Commit:
    """One state of a repo."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: float
    """Seconds since 1970, UTC."""


@dataclass(frozen=True)
class Draft:
    """What a commit says and changes."""

    title: str
    message: str
    author: str
    add: Mapping[str, File] = field(default_factory=dict)
    delete: Iterable[str] = ()
    """Paths of files and folders."""


class Store:
    """The folder of a local Hub; Refused if another version of this package wrote it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.blobs = Blobs(self.root / "blobs")
        self._file = self.root / "hub.sqlite"
        os.close(os.open(self._file, os.O_CREAT, 0o600))
        self._file.chmod(0o600)
        with self.database() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if tables and version != FORMAT:
                raise Refused(409, "Conflict", f"{root} has format {version}; expected {FORMAT}. Make a new folder")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA)

    @contextmanager
    def database(self, write: bool = False) -> Generator[sqlite3.Connection]:
        """A connection; with `write`, one transaction that is committed at the end or leaves nothing behind."""
        with closing(sqlite3.connect(self._file, timeout=30, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous=FULL")
            if write:
                db.execute("BEGIN IMMEDIATE")
            yield db  # closing takes back what was not committed
            if write:
                db.execute("COMMIT")

    # repos

    def create_repo(self, repo: str, private: bool = False, author: str = "local") -> None:
        """Make a repo with a first commit on `main`; Refused if the id is taken, whatever its upper case."""
        checked_repo(repo)
        git, sha256 = git_blob_id(ATTRIBUTES), self.blobs.put(ATTRIBUTES)
        first = File(".gitattributes", sha256, len(ATTRIBUTES), git, lfs=False)
        with self.database(write=True) as db:
            if db.execute("SELECT 1 FROM repos WHERE id = ?", (repo,)).fetchone():
                raise Refused(409, "Conflict", f"A model repository called {repo!r} already exists")
            db.execute("INSERT INTO repos VALUES (?, ?)", (repo, private))
            insert_commit(db, repo, "heads/main", Draft("initial commit", "", author), None, [first])

    def delete_repo(self, repo: str) -> None:
        """Forget a repo; `fsck --gc` frees what only it held."""
        with self.database(write=True) as db:
            for table in ("files", "commits", "refs", "events", "uploads"):
                db.execute(f"DELETE FROM {table} WHERE repo = ?", (repo,))
            db.execute("DELETE FROM repos WHERE id = ?", (repo,))

    def find(self, repo: str) -> tuple[str, bool] | None:
        """The id of a repo as it was made, and whether it is private."""
        with self.database() as db:
            row = db.execute("SELECT * FROM repos WHERE id = ?", (repo,)).fetchone()
        return (row[0], bool(row[1])) if row else None

    def set_private(self, repo: str, private: bool) -> None:
        """Make a repo private or public."""
        with self.database(write=True) as db:
            db.execute("UPDATE repos SET private = ? WHERE id = ?", (private, repo))

    def repos(self) -> dict[str, bool]:
        """Ids of all repos, and whether each is private."""
        with self.database() as db:
            return {repo: bool(private) for repo, private in db.execute("SELECT * FROM repos ORDER BY id")}

    # refs

    def refs(self, repo: str) -> dict[str, str]:
        """`heads/main`, `tags/v1`, `pr/1` -> commit."""
        with self.database() as db:
            return refs_of(db, repo)

    def resolve(self, repo: str, revision: str) -> str:
        """The commit that a full sha, branch, tag, `refs/...` or the start of a sha means, in this order."""
        with self.database() as db:
            found = "SELECT oid FROM commits WHERE repo = ? AND oid "
            if db.execute(f"{found} = ?", (repo, revision)).fetchone():
                return revision
            refs = refs_of(db, repo)
            names = [revision[5:]] if revision.startswith("refs/") else [f"heads/{revision}", f"tags/{revision}"]
            if known := next((refs[name] for name in names if name in refs), None):
                return known
            if len(revision) >= 7 and is_commit(revision.ljust(40, "0")):
                rows = db.execute(f"{found} GLOB ?", (repo, f"{revision}*")).fetchall()
                if len(rows) == 1:
                    return rows[0][0]
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def create_ref(self, repo: str, kind: str, name: str, oid: str) -> None:
        """Make a branch (`kind="heads"`) or tag (`"tags"`); Refused if git could not hold it beside the others."""
        checked_ref(name, "branch" if kind == "heads" else "tag")
        with self.database(write=True) as db:
            known = [ref[len(kind) + 1 :] for ref in refs_of(db, repo) if ref.startswith(f"{kind}/")]
            if name in known:
                raise Refused(409, "Conflict", f"Reference refs/{kind}/{name} already exists")
            checked_tree([*known, name])
            db.execute("INSERT INTO refs VALUES (?, ?, ?)", (repo, f"{kind}/{name}", oid))

    def delete_ref(self, repo: str, kind: str, name: str) -> None:
        """Delete a branch or tag."""
        with self.database(write=True) as db:
            if not db.execute("DELETE FROM refs WHERE repo = ? AND name = ?", (repo, f"{kind}/{name}")).rowcount:
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {name}")

    # content and commits

    def files(self, repo: str, oid: str) -> dict[str, File]:
        """Files of a commit by path."""
        with self.database() as db:
            return files_of(db, repo, oid)

    def history(self, repo: str, oid: str) -> list[Commit]:
        """A commit and those before it."""
        with self.database() as db:
            return history_of(db, repo, oid)

    def holds(self, repo: str, sha256: str) -> bool:
        """Whether content belongs to a repo: a commit of it has it, or it was uploaded to it."""
        with self.database() as db:
            return _holds(db, repo, sha256) and self.blobs.size(sha256) is not None

    def uploaded(self, repo: str, *hashes: str) -> None:
        """Remember that content was uploaded to a repo, so that its commits may name it."""
        with self.database(write=True) as db:
            rows = [(repo, sha256, time.time()) for sha256 in hashes]
            db.executemany("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", rows)

    def commit(
        self, repo: str, ref: str | Callable[[sqlite3.Connection], str], draft: Draft, parent: str | None = None
    ) -> str:
        """Add and delete files in one step, and move a ref to the new commit.

        Args:
            repo: The repo.
            ref: A ref that is there; or what makes a new one, from `parent`, in the same transaction.
            draft: What changes.
            parent: Commit that the ref has to be at.

        Returns:
            The new commit.

        Raises:
            Refused: The ref is not at `parent`, a path leads out of the repo, or content was not uploaded to this repo.
        """
        for path in draft.add:
            checked_path(path)
        with self.database(write=True) as db:
            head = refs_of(db, repo)[ref] if isinstance(ref, str) else parent
            if parent not in (None, head):
                said = "The branch was updated since you opened this page. Please refresh and try again."
                raise Refused(412, "PreconditionFailed", said)
            for file in draft.add.values():
                if self.blobs.size(file.sha256) != file.size or (file.lfs and not _holds(db, repo, file.sha256)):
                    said = f"its content was not uploaded to {repo}, or has another size"
                    raise Refused(400, "BadRequest", f"{file.path}: {said}")
            files = {**_without(files_of(db, repo, str(head)), draft.delete), **draft.add}
            checked_tree(files)
            return insert_commit(db, repo, ref if isinstance(ref, str) else ref(db), draft, head, files.values())


def refs_of(db: sqlite3.Connection, repo: str) -> dict[str, str]:
    """All refs of a repo."""
    return dict(db.execute("SELECT name, oid FROM refs WHERE repo = ? ORDER BY name", (repo,)).fetchall())


def files_of(db: sqlite3.Connection, repo: str, oid: str) -> dict[str, File]:
    """Files of a commit by path."""
    query = "SELECT path, sha256, size, git, lfs FROM files WHERE repo = ? AND oid = ? ORDER BY path"
    return {row[0]: File(*row[:4], lfs=bool(row[4])) for row in db.execute(query, (repo, oid))}


def history_of(db: sqlite3.Connection, repo: str, oid: str) -> list[Commit]:
    """A commit and those before it."""
    query = """
    WITH RECURSIVE line (oid, depth) AS (
        SELECT ?2, 0 UNION ALL
        SELECT parent, depth + 1 FROM commits JOIN line USING (oid) WHERE repo = ?1 AND parent IS NOT NULL
    ) SELECT oid, parent, title, message, author, date FROM commits JOIN line USING (oid) WHERE repo = ?1 ORDER BY depth
    """
    return [Commit(*row) for row in db.execute(query, (repo, oid))]


def insert_commit(
    db: sqlite3.Connection, repo: str, ref: str, draft: Draft, parent: str | None, files: Iterable[File]
) -> str:
    """Write a commit, and move a ref to it."""
    rows, text = [vars(file).values() for file in files], (draft.title, draft.message, draft.author, time.time())
    content = json.dumps([repo, parent, text, sorted(list(row) for row in rows)])
    oid = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
    db.execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)", (repo, oid, parent, *text))
    db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", [(repo, oid, *row) for row in rows])
    db.execute("INSERT OR REPLACE INTO refs VALUES (?, ?, ?)", (repo, ref, oid))
    return oid


def _holds(db: sqlite3.Connection, repo: str, sha256: str) -> bool:
    query = "SELECT 1 FROM {} WHERE repo = ? AND sha256 = ? LIMIT 1"
    return any(db.execute(query.format(table), (repo, sha256)).fetchone() for table in ("uploads", "files"))


def _without(files: dict[str, File], paths: Iterable[str]) -> dict[str, File]:
    for path in paths:
        folder = f"{path.rstrip('/')}/"
        gone = [path] if path in files else [name for name in files if name.startswith(folder)]
        if not gone:
            raise Refused(404, "EntryNotFound", f"{path} is not in the repo")
        for name in gone:
            del files[name]
    return files
