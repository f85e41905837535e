"""Which names a local Hub takes for repos, files, branches and tags: those that git and the Hub take."""

import re
from collections.abc import Iterable

__all__ = ["Refused", "checked_hash", "checked_path", "checked_ref", "checked_repo", "checked_tree", "is_commit"]

LONGEST_REF = 250
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_REPO_NEVER = re.compile(r"\.\.|--|(\.git|[.-])(/|$)")
_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_REF_NEVER = re.compile(r"[\s~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[/.-]|[/.]$|^refs/|^@$|^HEAD$")
"""What git forbids in a ref, and what would read as another ref."""


class Refused(ValueError):
    """What is asked for is not done; with the status and the code by which the Hub's client tells errors apart."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


def is_commit(revision: str) -> bool:
    """Whether a revision is the full sha of a commit."""
    return bool(_COMMIT.fullmatch(revision))


def checked_hash(name: str) -> str:
    """A sha256 as it came, or Refused."""
    if not _SHA256.fullmatch(name):
        raise Refused(400, "BadRequest", f"{name!r} is no sha256")
    return name


def checked_repo(repo: str) -> str:
    """A repo id as it came, or Refused: ASCII only, since other letters look like these."""
    if not _REPO_ID.fullmatch(repo) or _REPO_NEVER.search(repo):
        raise Refused(
            400, "BadRequest", f"{repo!r} is no repo id; expected 'owner/name' of ASCII letters, digits, -, _, ."
        )
    return repo


def checked_ref(name: str, kind: str = "branch") -> str:
    """The name of a branch or tag as it came, or Refused: git would not take it, or it reads as a commit."""
    if not 0 < len(name) <= LONGEST_REF or not name.isprintable() or _REF_NEVER.search(name) or is_commit(name):
        raise Refused(400, "BadRequest", f"Invalid reference for a {kind}: {name!r}")
    return name


def checked_path(path: str) -> str:
    """A path inside a repo as it came, or Refused: it is empty, leads out of the repo or into `.git`."""
    bad = any(part in ("", ".", "..") or part.lower() == ".git" for part in path.split("/"))
    if bad or "\\" in path or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        raise Refused(422, "BadRequest", f"{path!r} is not a path inside a repo")
    return path


def checked_tree(paths: Iterable[str]) -> None:
    """Refuse a name that would be a file and a folder."""
    known = set(paths)
    for path in known:
        while path := path.rpartition("/")[0]:
            if path in known:
                raise Refused(409, "Conflict", f"{path!r} cannot be a file and a folder")
