"""Who may do what on a local Hub: users by their tokens, and links that carry their own permission for a while."""

import hmac
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Links", "Tokens", "User", "parse_tokens"]

LINK_SECONDS = 3600
ROLES = ("read", "write", "admin")


@dataclass(frozen=True)
class User:
    """Who a token belongs to."""

    name: str
    role: str = "write"
    """"read", "write" (in the own namespace and those of the teams), or "admin" (everywhere)."""
    teams: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether the user may write anywhere."""
        return self.role != "read"

    def owns(self, repo: str) -> bool:
        """Whether a repo is in a namespace of the user's."""
        return self.role == "admin" or repo.partition("/")[0] in (self.name, *self.teams)


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
        self.known, self.file, self.seen = dict(known or {}), Path(file) if file is not None else None, 0
        if self.file and os.name == "posix" and self.file.stat().st_mode & 0o077:
            print(f"Warning: others can read {self.file}; run chmod 600 {self.file}", file=sys.stderr)
        self.required = bool(self.known or self.file)
        self.read = parse_tokens(self.file.read_text()) if self.file else {}

    def user(self, token: str) -> User | None:
        """The user of a token."""
        if not self.required:
            return User("local", "admin")
        try:
            changed = self.file.stat().st_mtime_ns if self.file else self.seen
            if self.file and changed != self.seen:
                self.seen, self.read = changed, parse_tokens(self.file.read_text())
        except (OSError, ValueError) as error:  # what was read before goes on to hold
            print(f"Warning: {self.file} was not read again: {error}", file=sys.stderr)
        return {**self.known, **self.read}.get(token)


@dataclass(frozen=True)
class Links:
    """Signs what a client may do later without a token of the Hub."""

    secret: bytes = field(default_factory=secrets.token_bytes)

    def sign(self, *what: object) -> str:
        """A signature that is good for an hour."""
        until = int(time.time()) + LINK_SECONDS
        return f"{until}-{self._digest(until, what)}"

    def good(self, signature: str, *what: object) -> bool:
        """Whether this server signed that, less than an hour ago."""
        until, _, digest = signature.partition("-")
        fresh = until.isascii() and until.isdecimal() and len(until) < 12 and int(until) >= time.time()
        return fresh and hmac.compare_digest(digest.encode(), self._digest(int(until), what).encode())

    def _digest(self, until: int, what: tuple[object, ...]) -> str:
        return hmac.new(self.secret, json.dumps([until, *map(str, what)]).encode(), "sha256").hexdigest()
