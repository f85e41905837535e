"""Copies of repos for networks without the Hub: one commit, under its own id, into the folder of a local Hub."""

from pathlib import Path

from ..errors import HubError
from ..transport import Repo
from .store import File, Store

__all__ = ["mirror"]


def mirror(
    repo_id: str, root: str | Path, revision: str | None = None, *, token: str | bool | None = None
) -> tuple[str, int]:
    """Copy a commit of a repo, all of its files, to a local Hub; a lock file that names the commit stays right.

    Args:
        repo_id: "owner/name".
        root: Folder of the local Hub (`timm-ext hub serve ROOT`); made if it does not exist.
        revision: Branch, tag or commit; `main` by default.
        token: Access token; that of `hf auth login` by default.

    Returns:
        The commit, and the number of its files.

    Raises:
        HubError: The repo cannot be read, or a file is not what the Hub recorded; the local Hub is as it was.
    """
    repo = Repo(repo_id, revision, token=token)
    contents = repo.contents()
    if not contents:
        raise HubError(f"{repo.place} has no files, or cannot be reached; nothing was copied")
    store, files = Store(root), []
    for name, content in contents.items():
        path = repo.file(name)
        sha256 = store.put_file(path)
        files.append(File(name, sha256, content.size, str(content.git), lfs=content.sha256 is not None))
    store.adopt(repo.id, repo.commit, files, repo.revision)
    return repo.commit, len(files)
