"""Lock files from Python: add a repo, check what is locked, follow the branches; `timm-ext lock` does the same."""

from collections.abc import Iterable
from pathlib import Path

from .download import lock_repo, pull
from .lock import Entry, Lock

__all__ = ["lock_add", "lock_check", "lock_update"]

LOCK_FILE = "backbones.lock"


def lock_add(
    repo_id: str,
    revision: str | None = None,
    *,
    path: str | Path = LOCK_FILE,
    token: str | bool | None = None,
) -> Entry:
    """Pull and check a repo, and lock the commit that it is at.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag or commit; `lock_update` follows a branch or tag.
        path: The lock file; made if it does not exist.
        token: Access token; that of `hf auth login` by default.

    Returns:
        The entry that the lock file has now.

    Raises:
        HubError: The repo cannot be pulled, or is not a backbone.
        ValueError: The file is not a lock file.
    """
    locked = Lock.read(path, missing_ok=True)
    entry = lock_repo(repo_id, revision, token=token)
    locked.entries[entry.repo] = entry
    locked.write()
    return entry


def lock_check(path: str | Path = LOCK_FILE, *, token: str | bool | None = None) -> list[Entry]:
    """Pull everything that is locked, and check that it is what was locked.

    Returns:
        The entries of the lock file.

    Raises:
        HubError: A repo cannot be pulled, or holds something else at the locked commit.
        FileNotFoundError: There is no lock file.
        ValueError: The file is not a lock file.
    """
    entries = list(Lock.read(path))
    for entry in entries:
        pull(entry.repo, lock=path, token=token)
    return entries


def lock_update(
    repos: Iterable[str] = (), *, path: str | Path = LOCK_FILE, token: str | bool | None = None
) -> list[tuple[Entry, Entry]]:
    """Lock repos at the commit that their branch or tag is at now.

    Args:
        repos: Which of the locked repos; all by default.
        path: The lock file; it is written after all of them were pulled.
        token: Access token; that of `hf auth login` by default.

    Returns:
        For each repo the entry before and the entry now.

    Raises:
        HubError: A repo cannot be pulled, or is not a backbone.
        FileNotFoundError: There is no lock file.
        ValueError: The file is not a lock file, or does not lock a repo that is named.
    """
    locked, changes = Lock.read(path), []
    for old in [locked[repo] for repo in repos] or list(locked):
        new = locked.entries[old.repo] = lock_repo(old.repo, old.revision, token=token)
        changes.append((old, new))
    locked.write()
    return changes
