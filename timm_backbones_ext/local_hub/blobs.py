"""Content by its sha256: written beside its place, hashed on its way, and there only if it is whole."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Container
from pathlib import Path

from .._digest import CHUNK, sha256_of
from .names import Refused, checked_hash

__all__ = ["Blobs", "Incoming"]


class Blobs:
    """The folder of all content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where content is kept."""
        return self.folder / checked_hash(sha256)[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """Bytes of content; None if it is not here."""
        path = self.path(sha256)
        return path.stat().st_size if path.is_file() else None

    def put(self, content: bytes) -> str:
        """Keep content; returns its sha256."""
        with self.incoming(hashlib.sha256(content).hexdigest()) as file:
            file.write(content)
            return file.keep()

    def put_file(self, path: Path) -> str:
        """Keep a copy of a file; returns its sha256."""
        with self.incoming(sha256_of(path)) as target, path.open("rb") as source:
            while chunk := source.read(CHUNK):
                target.write(chunk)
            return target.keep()

    def incoming(self, sha256: str, size: int | None = None) -> "Incoming":
        """A file to write content of this hash and size to; it is there once it was kept."""
        return Incoming(self.path(sha256), size)

    def free(self, needed: Container[str], older_than: float) -> tuple[int, int]:
        """Delete content that is not needed and unfinished files, if they are old; returns how many files and bytes."""
        old = [(path, path.stat()) for path in self.folder.rglob("*") if path.is_file() and path.name not in needed]
        old = [(path, facts.st_size) for path, facts in old if time.time() - facts.st_mtime >= older_than]
        for path, _ in old:
            path.unlink(missing_ok=True)
        return len(old), sum(size for _, size in old)


class Incoming:
    """A file that is hashed as it is written, takes no more than it was said to have, and is gone unless it is kept."""

    def __init__(self, target: Path, size: int | None) -> None:
        target.parent.mkdir(exist_ok=True)
        self.target, self.size, self.hash, self.written = target, size, hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=target.parents[1], prefix="incoming-")
        self.draft, self.raw = Path(name), os.fdopen(handle, "wb")

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which was raised already
            self.raw.close()
        self.draft.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self.written += len(chunk)
        if self.size is not None and self.written > self.size:
            raise Refused(400, "BadDigest", f"expected {self.size} bytes; got more")
        self.raw.write(chunk)
        self.hash.update(chunk)

    def keep(self) -> str:
        """Put the file in its place; Refused if it has another size or hash than was said."""
        got = self.hash.hexdigest()
        if got != self.target.name or self.size not in (None, self.written):
            said = f"expected content with sha256 {self.target.name}"
            raise Refused(400, "BadDigest", f"{said}; got {self.written} bytes with {got}")
        self.raw.flush()
        os.fsync(self.raw.fileno())
        self.raw.close()
        os.replace(self.draft, self.target)
        return got
