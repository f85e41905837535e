"""`backbones.lock`: which commit of which repo a project uses, and the hash of every file, as TOML.

The file belongs into version control. With it, every machine gets the same bytes or an error.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # ty: ignore[import-not-found]

__all__ = ["Entry", "Lock"]

HEAD = "# Written by `timm-ext lock`; belongs into version control.\n"


@dataclass(frozen=True)
class Entry:
    """One repo at one commit."""

    repo: str
    revision: str
    """The branch, tag or commit that was asked for; `lock_update` follows it."""
    commit: str
    fingerprint: str
    """Digest of the keys, shapes and dtypes; empty if the repo has no fingerprint."""
    sha256: dict[str, str] = field(default_factory=dict)
    """By the name of each file that a pull takes."""


@dataclass
class Lock:
    """The entries of a lock file, by repo."""

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path, *, missing_ok: bool = False) -> "Lock":
        """Read a lock file.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is not a lock file.
        """
        path = Path(path)
        if not path.is_file():
            if missing_ok:
                return cls(path)
            raise FileNotFoundError(f"no lock file {path}; `timm-ext lock add OWNER/NAME` makes one")
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("backbone", [])
            entries = [Entry(**table) for table in tables]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a lock file that this version reads: {error}") from error
        return cls(path, {entry.repo: entry for entry in entries})

    def __getitem__(self, repo: str) -> Entry:
        if repo not in self.entries:
            known = ", ".join(self.entries) or "nothing"
            raise ValueError(f"{self.path} does not lock {repo!r} (it locks {known}); `timm-ext lock add {repo}` does")
        return self.entries[repo]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def write(self) -> None:
        """Write the file; either all of it or nothing."""
        handle, draft = tempfile.mkstemp(dir=self.path.absolute().parent, prefix=f".{self.path.name}-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(HEAD + "".join(map(_toml, sorted(self, key=lambda entry: entry.repo))))
        os.replace(draft, self.path)


def _toml(entry: Entry) -> str:
    """A table of TOML; its strings are escaped as in JSON, which TOML reads."""
    values = {key: getattr(entry, key) for key in ("repo", "revision", "commit", "fingerprint")}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    hashes = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in sorted(entry.sha256.items())]
    return "\n".join(["", "[[backbone]]", *lines, "[backbone.sha256]", *hashes, ""])
