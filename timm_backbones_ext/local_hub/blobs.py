"""Content by its sha256: written beside its place, and there only if it is whole."""

import os
import tempfile
import time
from collections.abc import Container, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._digest import sha256_of
from .names import Refused, checked_hash

__all__ = ["Blobs"]


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
        with self.incoming() as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            return self.keep(file, sha256)

    @contextmanager
    def incoming(self) -> Generator[Any]:
        """A file to write content to; it is gone afterwards unless it is kept."""
        file = tempfile.NamedTemporaryFile(dir=self.folder, prefix="incoming-", delete=False)  # noqa: SIM115 - closed below
        try:
            with file:
                yield file
        finally:
            Path(file.name).unlink(missing_ok=True)

    def keep(self, file: Any, sha256: str = "") -> str:
        """Put a written file in its place; Refused if it has another sha256 than the one that is given."""
        file.flush()
        os.fsync(file.fileno())
        file.close()
        got = sha256_of(Path(file.name))
        if sha256 not in ("", got):
            raise Refused(400, "BadDigest", f"expected content with sha256 {sha256}; got {got}")
        target = self.path(got)
        target.parent.mkdir(exist_ok=True)
        os.replace(file.name, target)
        return got

    def free(self, needed: Container[str], older_than: float) -> tuple[int, int]:
        """Delete content that is not needed and unfinished files, if they are old; returns how many files and bytes."""
        old = [(path, path.stat()) for path in self.folder.rglob("*") if path.is_file() and path.name not in needed]
        sizes = {path: facts.st_size for path, facts in old if time.time() - facts.st_mtime >= older_than}
        for path in sizes:
            path.unlink(missing_ok=True)
        return len(sizes), sum(sizes.values())
