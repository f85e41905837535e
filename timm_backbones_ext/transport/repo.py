"""A repo at one commit, in the cache that all Hub clients on a machine share.

The layout is the one that huggingface_hub documents: `blobs/<hash>`, `snapshots/<commit>/<name>` as links to blobs,
`refs/<branch>` with a commit. So timm, transformers and `hf cache` see the files, and we see theirs.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock, build_hf_headers, validate_repo_id

from .._digest import git_blob_id, sha256_of
from .._version import __version__
from ..errors import HubError
from .errors import TransportError, explained, tried
from .fetch import Content, fetch
from .retry import PATIENCE, persist

__all__ = ["CLIENT", "Repo"]

CLIENT: Any = {"library_name": "timm-backbones-ext", "library_version": __version__}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Repo:
    """A model repo at one commit, which is found out once.

    Args:
        repo_id: "owner/name"; "owner/name@revision" and "hf-hub:owner/name" as timm writes it are understood too.
        revision: Branch, tag or commit; `main` by default.
        token: Access token; that of `hf auth login` by default.
        cache_dir: Folder of the cache; huggingface_hub's by default.
        pinned: sha256 of each file, if they are known beforehand: then nothing else is accepted, and what the cache
            holds needs no request.

    Raises:
        HubError: The repo id is none.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        pinned: Mapping[str, str] | None = None,
    ) -> None:
        repo_id, _, marked = repo_id.removeprefix("hf-hub:").partition("@")
        self.id, self.revision, self.token = repo_id, revision or marked or "main", token
        self.place = f"{repo_id}@{self.revision}"
        with explained(repo_id):
            validate_repo_id(repo_id)
        self.pinned = dict(pinned or {})
        cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
        self.folder = cache / f"models--{repo_id.replace('/', '--')}"
        self._locks = cache / ".locks" / self.folder.name
        self._contents: dict[str, Content] | None = None
        self._unreachable = False
        self._commit = self.revision if _COMMIT.fullmatch(self.revision) else None

    @property
    def commit(self) -> str:
        """The commit that the revision means."""
        if self._commit is None:
            self._look_up()
        return str(self._commit)

    @property
    def snapshot(self) -> Path:
        """The folder of the commit's files; a file is there once it was asked for."""
        return self.folder / "snapshots" / self.commit

    def contents(self) -> dict[str, Content]:
        """Size and hash of each file, as the Hub has recorded them; empty without a network."""
        if self._contents is None:
            self._look_up()
        return self._contents or {}

    def has(self, name: str) -> bool:
        """Whether the commit has a file; found out without a request if it is locked or in the cache."""
        if self.pinned:
            return name in self.pinned
        return (self.snapshot / name).is_file() or name in self.contents()

    def file(self, name: str) -> Path:
        """A file of the commit, checked; it is fetched if it is not here, or here with another content.

        Raises:
            HubError: There is no such file, it cannot be fetched, or it is not what the Hub or the lock says.
        """
        with explained(self.place):
            path = self._cached(name) if self._commit else None
            path = path or self._fetched(name)
        if (expected := self.pinned.get(name)) and (got := sha256_of(path)) != expected:
            raise HubError(f"{self.place}: {name} has sha256 {got}; locked is {expected}. Nothing was loaded")
        return path

    def _cached(self, name: str) -> Path | None:
        """The file if the cache holds it unharmed, found out without a request: the cache names blobs by their hash."""
        path = self.snapshot / checked_name(name)
        if not path.is_file():
            return None
        recorded = path.resolve().name if path.is_symlink() else ""
        if len(recorded) == 64:
            return path if sha256_of(path) == recorded else None
        if len(recorded) == 40:
            return path if git_blob_id(path.read_bytes()) == recorded else None
        return path if sha256_of(path) == self.pinned.get(name) else None

    def _fetched(self, name: str) -> Path:
        contents = self.contents()
        if self._unreachable:
            if path := self._cached(name):
                return path
            raise HubError(f"{self.place}: the Hub cannot be reached and {name} is not in the cache")
        if name not in contents:
            raise HubError(f"{self.place} has no {name}")
        content, path = contents[name], self.snapshot / checked_name(name)
        if content.is_in(path):
            return path
        blob = self.folder / "blobs" / content.etag
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(self._locks / f"{content.etag}.lock"):
                if not content.is_in(blob):
                    url = hf_hub_url(self.id, name, revision=self.commit)
                    fetch(url, build_hf_headers(token=self.token, **CLIENT), content, blob, self.place)
                _link(path, blob)
        except PermissionError as error:
            raise HubError(f"{self.place}: {name} is not in the cache, which cannot be written to ({error})") from error
        return path

    def _look_up(self) -> None:
        """Ask the Hub for commit and files. Without a network the commit that was seen last serves, if there is one."""
        ref = self.folder / "refs" / self.revision
        known = self._commit or (ref.read_text() if ref.is_file() else None)
        try:
            with explained(self.place):
                api = HfApi(token=self.token, **CLIENT)
                patience = replace(PATIENCE, attempts=2) if known else PATIENCE
                asked: Any = {
                    "revision": self.revision,
                    "files_metadata": True,
                    "timeout": constants.HF_HUB_ETAG_TIMEOUT,
                }
                info = persist(lambda: api.model_info(self.id, **asked), patience)
        except HubError as error:
            unreachable = isinstance(error.__cause__, (OfflineModeIsEnabled, TransportError))
            if not unreachable or getattr(error.__cause__, "response", None) is not None:
                raise
            if not known or not (self.folder / "snapshots" / known).is_dir():
                lack = f"{self.place}: the Hub cannot be reached and this revision is not in the cache"
                raise HubError(f"{lack} ({error.__cause__}){tried(error.__cause__)}") from error.__cause__
            self._commit, self._contents, self._unreachable = known, {}, True
            return
        self._commit = _checked(str(info.sha), _COMMIT, self.place)
        self._contents = {item.rfilename: _content(item, self.place) for item in info.siblings or ()}
        if self.revision != self._commit and known != self._commit:
            with contextlib.suppress(OSError):  # a cache that cannot be written to serves all the same
                ref.parent.mkdir(parents=True, exist_ok=True)
                _replace(ref, self._commit)


def checked_name(name: str) -> str:
    """A file's name in a repo, which must not lead out of the cache.

    Raises:
        HubError: It would.
    """
    parts = name.split("/")
    if not name or "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise HubError(f"{name!r} is no path inside a repo; nothing was loaded")
    return name


def _content(sibling: Any, place: str) -> Content:
    lfs = sibling.lfs
    sha256 = _checked(lfs.sha256, _HASH, place) if lfs else None
    return Content(sibling.rfilename, int(sibling.size or 0), sha256, _checked(sibling.blob_id, _HASH, place))


def _checked(text: str, pattern: re.Pattern[str], place: str) -> str:
    """A hash that becomes part of a path."""
    if not pattern.fullmatch(text):
        raise HubError(f"{place}: the Hub answered with {text!r} where a hash belongs; nothing was loaded")
    return text


def _replace(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(draft, path)


def _link(path: Path, blob: Path) -> None:
    """Let the snapshot's path lead to the blob; a copy where there are no links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        shutil.copyfile(blob, draft)
    os.replace(draft, path)
