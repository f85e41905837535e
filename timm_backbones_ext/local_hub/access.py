"""Who may do what on a local Hub: users by their tokens."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STRANGER", "Tokens", "User", "parse_tokens"]

ROLES = ("read", "write", "admin")


@dataclass(frozen=True)
class User:
    """Who a token belongs to."""

    name: str
    role: str = "write"
    """"read", "write" (in the own namespace and those of the teams), or "admin" (everywhere)."""
    teams: tuple[str, ...] = ()

    def owns(self, repo: str) -> bool:
        """Whether a repo is in a namespace of the user's."""
        return self.role == "admin" or repo.partition("/")[0] in (self.name, *self.teams)


STRANGER = User("", "none")
"""Whoever shows no token."""


def parse_tokens(text: str) -> dict[str, User]:
    """Read lines `NAME ROLE TOKEN [TEAM ...]`; `#` begins a comment. No token is in the text of an error."""
    users = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words and (len(words) < 3 or words[1] not in ROLES or words[2] in users):
            expected = f"expected 'NAME {'|'.join(ROLES)} TOKEN [TEAM ...]' and each token once"
            raise ValueError(f"line {number} of the tokens: {expected}")
        if words:
            users[words[2]] = User(words[0], words[1], tuple(words[3:]))
    return users


class Tokens:
    """The users of a Hub by token; a file of them is read again when it has changed.

    Without any, every token is an admin's.
    """

    def __init__(self, known: Mapping[str, User] | None = None, file: str | Path | None = None) -> None:
        self.known, self.file = dict(known or {}), Path(file) if file is not None else None
        if self.file and os.name == "posix" and self.file.stat().st_mode & 0o077:
            print(f"Warning: others can read {self.file}; run chmod 600 {self.file}", file=sys.stderr)
        self.required = bool(self.known or self.file)
        self.read = parse_tokens(self.file.read_text()) if self.file else {}

    def user(self, token: str) -> User | None:
        """The user of a token; None if nobody has it."""
        if not token:
            return STRANGER
        if not self.required:
            return User("local", "admin")
        try:
            self.read = parse_tokens(self.file.read_text()) if self.file else {}
        except (OSError, ValueError) as error:  # what was read before goes on to hold
            print(f"Warning: {self.file} was not read again: {error}", file=sys.stderr)
        return {**self.known, **self.read}.get(token)
