"""The two hashes by which the Hub knows content. Standard library only: a local Hub starts without torch."""

import hashlib
from pathlib import Path

__all__ = ["git_blob_id", "git_hasher", "sha256_of"]

CHUNK = 1 << 20


def git_hasher(size: int) -> "hashlib._Hash":
    """A running hash that ends as git's id of a blob of `size` bytes."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def git_blob_id(content: bytes) -> str:
    """The sha1 that git gives a blob with this content."""
    digest = git_hasher(len(content))
    digest.update(content)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
