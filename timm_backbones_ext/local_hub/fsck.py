"""Whether what a local Hub holds is whole and unharmed; and what of it nothing needs."""

import time
from pathlib import Path

from .._digest import sha256_of
from .blobs import Blobs
from .names import Refused
from .store import Store

__all__ = ["collect", "fsck"]

GRACE_SECONDS = 24 * 3600
"""An upload may take that long until its commit."""


def fsck(root: str | Path) -> list[str]:
    """Name every missing or damaged blob of a local Hub, and the files that need it.

    Raises:
        Refused: The folder holds no local Hub.
    """
    store, problems = _opened(root), []
    place = "repo || ' ' || path || ' at ' || substr(oid, 1, 8)"
    query = f"SELECT sha256, size, GROUP_CONCAT({place}, ', ') FROM files GROUP BY sha256, size"
    for sha256, size, places in store.run(query):
        path, here = store.blobs.path(sha256), store.blobs.size(sha256)
        problem = "missing" if here is None else f"{here} bytes instead of {size}" if here != size else ""
        if problem := problem or ("" if sha256_of(path) == sha256 else "damaged"):
            problems.append(f"{problem}: {sha256} (needed by {places})")
    return problems


def collect(root: str | Path, grace: float = GRACE_SECONDS) -> tuple[int, int]:
    """Delete content that no commit names and uploads that were left; a server may run.

    Args:
        root: Folder of the local Hub.
        grace: Seconds; younger files stay, since a commit may be about to name them.

    Returns:
        How many files were deleted, and how many bytes.
    """
    store = _opened(root)
    with store.database(write=True):  # no commit meanwhile
        store.run("DELETE FROM uploads WHERE date <= ?", time.time() - grace)
        rows = store.run("SELECT sha256 FROM files UNION SELECT sha256 FROM uploads")
        content = store.blobs.free({sha256 for (sha256,) in rows}, grace)
    parts = Blobs(store.root / "xet").free((), grace)
    return content[0] + parts[0], content[1] + parts[1]


def _opened(root: str | Path) -> Store:
    if not (Path(root) / "hub.sqlite").is_file():
        raise Refused(404, "NotFound", f"{root} holds no local Hub")
    return Store(root)
