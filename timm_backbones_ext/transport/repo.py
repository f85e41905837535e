"""A repo at one commit, in the cache that all Hub clients on a machine share.

The layout is the one that huggingface_hub documents: `blobs/<hash>`, `snapshots/<commit>/<name>` as links to blobs,
`refs/<branch>` with a commit. timm, transformers and `hf cache` read these files, and this package reads theirs.
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

from huggingface_hub import HfApi, ModelInfo, constants, hf_hub_url
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock, build_hf_headers, validate_repo_id

from .._digest import git_blob_id, sha256_of
from .._version import __version__
from ..errors import HubError
from .errors import TransportError, explained, tried
from .fetch import Content, fetch
from .retry import PATIENCE, persist

__all__ = ["CLIENT", "Repo", "listing"]

CLIENT: Any = {"library_name": "timm-backbones-ext", "library_version": __version__}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Repo:
    """A model repo at one commit; the Hub is asked for the commit once.

    Args:
        repo_id: "owner/name", "owner/name@revision" or, as in timm, "hf-hub:owner/name".
        revision: Branch, tag or commit; `main` by default.
        token: Access token; that of `hf auth login` by default.
        cache_dir: Folder of the cache; huggingface_hub's by default.
        pinned: sha256 of each file, if known. Then other content is an error, and files in the cache need no request.
        endpoint: Address of another Hub than HF_ENDPOINT; the stored token is not sent there.

    Raises:
        HubError: The repo id is not valid.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        pinned: Mapping[str, str] | None = None,
        endpoint: str | None = None,
    ) -> None:
        repo_id, _, marked = repo_id.removeprefix("hf-hub:").partition("@")
        self.id, self.revision, self.endpoint = repo_id, revision or marked or "main", endpoint
        self.token = False if endpoint and token is None else token  # the token of one Hub is not sent to another
        self.place = f"{repo_id}@{self.revision}"
        with explained(repo_id):
            validate_repo_id(repo_id)
        self.pinned = dict(pinned or {})
        self.cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
        self.folder = self.cache / f"models--{repo_id.replace('/', '--')}"
        self._locks = self.cache / ".locks" / self.folder.name
        self._contents: dict[str, Content] | None = None
        self._unreachable = False
        self._commit = self.revision if self.is_commit(self.revision) else None

    @staticmethod
    def is_commit(revision: str) -> bool:
        """Whether a revision is the full id of a commit."""
        return _COMMIT.fullmatch(revision) is not None

    @property
    def commit(self) -> str:
        """The commit of the revision.

        Raises:
            HubError: The Hub cannot be asked, or answers with another commit than the one asked for.
        """
        if self._commit is None:
            self._look_up()
        return str(self._commit)

    @property
    def snapshot(self) -> Path:
        """The folder of the commit's files; it contains a file after `file` was called for it."""
        return self.folder / "snapshots" / self.commit

    def contents(self) -> dict[str, Content]:
        """Size and hash of each file, as the Hub recorded them; empty without a network."""
        if self._contents is None:
            self._look_up()
        return self._contents or {}

    def has(self, name: str) -> bool:
        """Whether the commit has a file; no request is made if it is locked or in the cache."""
        if self.pinned:
            return name in self.pinned
        return (self.snapshot / name).is_file() or name in self.contents()

    def size(self, name: str) -> int:
        """Bytes of a file of the commit; no request is made if it is in the cache."""
        path = self.snapshot / checked_name(name)
        if path.is_file():
            return path.stat().st_size
        return self.contents()[name].size if name in self.contents() else 0

    def file(self, name: str) -> Path:
        """A file of the commit, checked against its hash; it is fetched if the cache lacks it or holds other content.

        Raises:
            HubError: The file does not exist, cannot be fetched, or differs from the hash of the Hub or of the lock.
        """
        with explained(self.place):
            path = self._cached(name) if self._commit else None
            path = path or self._fetched(name)
        expected = self.pinned.get(name)
        if expected in (None, path.resolve().name):  # `_cached` has just compared a blob with its name
            return path
        if (got := sha256_of(path)) != expected:
            raise HubError(f"{self.place}: {name} has sha256 {got}; locked is {expected}. Nothing was loaded")
        return path

    def _cached(self, name: str) -> Path | None:
        """The file if it is undamaged in the cache, else None; blobs are named by their hash, so no request is made."""
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
                    url = hf_hub_url(self.id, name, revision=self.commit, endpoint=self.endpoint)
                    fetch(url, build_hf_headers(token=self.token, **CLIENT), content, blob, self.place)
                _link(path, blob)
        except PermissionError as error:
            raise HubError(f"{self.place}: {name} is not in the cache, which cannot be written to ({error})") from error
        return path

    def _look_up(self) -> None:
        """Ask the Hub for commit and files; without a network, use the last known commit."""
        ref = self.folder / "refs" / self.revision
        known = self._commit or _seen_last(ref)
        try:
            with explained(self.place):
                api = HfApi(self.endpoint, token=self.token, **CLIENT)
                patience = replace(PATIENCE, attempts=2) if known else PATIENCE
                came, self._contents = persist(lambda: self._asked(api), patience)
        except HubError as error:
            if not _is_unreachable(error.__cause__):
                raise
            if not known or not (self.folder / "snapshots" / known).is_dir():
                lack = f"{self.place}: the Hub cannot be reached and this revision is not in the cache"
                raise HubError(f"{lack} ({error.__cause__}){tried(error.__cause__)}") from error.__cause__
            self._commit, self._contents, self._unreachable = known, {}, True
            return
        if self._commit not in (None, came):
            raise HubError(
                f"{self.place}: asked for commit {self._commit}, and the Hub answered with {came}. "
                "A branch or tag may have the name of a commit; nothing was loaded"
            )
        if self._commit is None and known != came:
            with contextlib.suppress(OSError):  # a read-only cache can still be read
                ref.parent.mkdir(parents=True, exist_ok=True)
                _replace(ref, came)
        self._commit = came

    def _asked(self, api: HfApi) -> tuple[str, dict[str, Content]]:
        """Commit and files, as the Hub answers now."""
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        return listing(api.model_info(self.id, revision=self.revision, files_metadata=True, timeout=timeout))


def listing(info: ModelInfo) -> tuple[str, dict[str, Content]]:
    """The commit, and the size and hash of each file, from the Hub's answer about a repo.

    Raises:
        ValueError: An entry of the answer is missing or has a wrong type.
    """
    return _checked(info.sha, _COMMIT), {item.rfilename: _content(item) for item in info.siblings or ()}


def _seen_last(ref: Path) -> str | None:
    """The commit that a branch or tag had when the Hub last answered."""
    if not ref.is_file():
        return None
    text = ref.read_text(encoding="utf-8", errors="replace").strip()
    return text if _COMMIT.fullmatch(text) else None


def _is_unreachable(cause: BaseException | None) -> bool:
    """Whether the Hub gave no answer."""
    return isinstance(cause, (OfflineModeIsEnabled, TransportError)) and getattr(cause, "response", None) is None


def checked_name(name: str) -> str:
    """The name of a file in a repo, checked.

    Raises:
        HubError: The name is a path outside the repo's folder in the cache.
    """
    parts = name.split("/")
    if not name or "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise HubError(f"{name!r} is not a path inside a repo; nothing was loaded")
    return name


def _content(sibling: Any) -> Content:
    sha256 = _checked(sibling.lfs.sha256, _SHA256) if sibling.lfs else None
    size = 0 if sibling.size is None else sibling.size
    if not isinstance(size, int) or size < 0 or not isinstance(sibling.rfilename, str):
        raise ValueError(f"a file {sibling.rfilename!r} of {size!r} bytes")
    return Content(sibling.rfilename, size, sha256, _checked(sibling.blob_id, _COMMIT))


def _checked(text: Any, pattern: re.Pattern[str]) -> str:
    """Check a hash of the answer, since it becomes part of a path."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"{text!r} where a hash belongs")
    return text


def _replace(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(draft, path)


def _link(path: Path, blob: Path) -> None:
    """Link the snapshot's path to the blob; copy it where the system has no links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        shutil.copyfile(blob, draft)
    os.replace(draft, path)
