"""Content by its sha256: written beside its place, hashed on its way, and there only if it is whole."""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Container, Iterable
from pathlib import Path

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

    def put(self, content: bytes | Iterable[bytes], sha256: str = "") -> str:
        """Keep content, whole or in chunks; returns its sha256, which has to be the one that is given."""
        with Incoming(self, sha256) as file:
            for chunk in [content] if isinstance(content, bytes) else content:
                file.write(chunk)
            return file.keep()

    def free(self, needed: Container[str], older_than: float) -> tuple[int, int]:
        """Delete content that is not needed and unfinished files, if they are old; returns how many files and bytes."""
        old = [(path, path.stat()) for path in self.folder.rglob("*") if path.is_file() and path.name not in needed]
        sizes = {path: facts.st_size for path, facts in old if time.time() - facts.st_mtime >= older_than}
        for path in sizes:
            path.unlink(missing_ok=True)
        return len(sizes), sum(sizes.values())


class Incoming:
    """A file that is hashed as it is written, and gone unless it is kept."""

    def __init__(self, blobs: Blobs, sha256: str = "") -> None:
        self.blobs, self.sha256, self.hash = blobs, sha256, hashlib.sha256()
        self.file = tempfile.NamedTemporaryFile(dir=blobs.folder, prefix="incoming-", delete=False)  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> "Incoming":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which was raised already
            self.file.close()
        Path(self.file.name).unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self.file.write(chunk)
        self.hash.update(chunk)

    def keep(self) -> str:
        """Put the file in its place; Refused if it has another hash than was given."""
        got = self.hash.hexdigest()
        if self.sha256 not in ("", got):
            raise Refused(400, "BadDigest", f"expected content with sha256 {self.sha256}; got {got}")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        target = self.blobs.path(got)
        target.parent.mkdir(exist_ok=True)
        os.replace(self.file.name, target)
        return got
