"""Whether what a local Hub holds is whole and unharmed."""

from pathlib import Path

from .._digest import sha256_of
from .store import NotFound, Store

__all__ = ["fsck"]


def fsck(root: str | Path) -> list[str]:
    """Name every missing or damaged blob of a local Hub, by LFS and by Xet, and the files that need it.

    Raises:
        NotFound: The folder holds no local Hub.
        ImportError: It holds content that came by Xet, and the extra `local-hub` is not installed.
    """
    if not (Path(root) / "hub.sqlite").is_file():
        raise NotFound(f"{root} holds no local Hub")
    store, problems = Store(root), []
    with store.database() as db:
        query = "SELECT sha256, size, repo || ' ' || path || ' at ' || substr(files.oid, 1, 8) FROM files"
        rows = db.execute(f"{query} JOIN commits ON commits.oid = files.oid ORDER BY sha256").fetchall()
    needed: dict[tuple[str, int], list[str]] = {}
    for sha256, size, place in rows:
        needed.setdefault((sha256, size), []).append(place)
    for (sha256, size), places in needed.items():
        if problem := _problem(store.blob(sha256), sha256, size):
            problems.append(f"{problem}: {sha256} (needed by {', '.join(places)})")
    if (store.root / "xet").is_dir():
        from .xet import Xet  # starlette and lz4 are in an extra

        problems += [f"damaged in Xet: {sha256} ({problem})" for sha256, problem in Xet(store).damage().items()]
    return problems


def _problem(path: Path, sha256: str, size: int) -> str:
    if not path.is_file():
        return "missing"
    if path.stat().st_size != size:
        return f"{path.stat().st_size} bytes instead of {size}"
    return "" if sha256_of(path) == sha256 else "damaged"
