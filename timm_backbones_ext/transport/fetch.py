"""Download one file: an interrupted download is resumed, also by another process, and the hash is checked."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import get_session, hf_raise_for_status, tqdm

from .._digest import CHUNK, git_hasher, sha256_of
from ..errors import HubError
from .errors import TransportError, readable
from .retry import PATIENCE

__all__ = ["Content", "fetch"]

EXPIRED = (401, 403)
"""Statuses that mean an expired signed link; the Hub gives a new one."""
BROKEN_LINKS = 2
"""Largest number of expired links that are replaced; one more is an error."""


class Content:
    """The size and the hash of a file, as the Hub recorded them."""

    def __init__(self, name: str, size: int, sha256: str | None, git: str | None) -> None:
        self.name, self.size, self.sha256, self.git = name, size, sha256, git

    @property
    def etag(self) -> str:
        """The hash by which the Hub and its client's cache name the content."""
        return self.sha256 or self.git or ""

    def is_in(self, path: Path) -> bool:
        """Whether a file holds exactly this content."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256_of(path) == self.sha256
        digest = git_hasher(self.size)
        digest.update(path.read_bytes())
        return digest.hexdigest() == self.git


def fetch(url: str, headers: dict[str, str], content: Content, target: Path, place: str) -> None:
    """Download a file to `target`, which is written only if the file is complete and has the right hash.

    A partial file, `.incomplete`, is kept next to it for the next attempt or process. The caller holds the lock of the
    file.

    Raises:
        HubError: The content had a wrong hash twice, or the disk is full.
        HfHubHTTPError, TransportError: The Hub refuses, or all attempts to connect failed.
    """
    partial = target.with_name(f"{target.name}.incomplete")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        for _ in range(2):
            _require_space(partial, content, place)
            _fill(partial, url, headers, content)
            if content.is_in(partial):
                os.replace(partial, target)
                return
            partial.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        partial.unlink(missing_ok=True)
        raise HubError(
            f"{place}: no space left for {content.name} ({content.size:,} bytes) in {target.parent}"
        ) from error
    raise HubError(f"{place}: {content.name} arrived damaged twice (its hash is not the Hub's); nothing was loaded")


def _require_space(partial: Path, content: Content, place: str) -> None:
    missing = content.size - _size(partial)
    if missing > (free := shutil.disk_usage(partial.parent).free):
        raise HubError(
            f"{place}: {content.name} needs {missing:,} more bytes, and {partial.parent} has {free:,}; "
            "free some space, or set HF_HOME to a larger disk"
        )


def _fill(partial: Path, url: str, headers: dict[str, str], content: Content) -> None:
    """Append to the partial file until it is complete; the count of failures restarts when it has grown."""
    failures, links, most = 0, 0, _size(partial)
    partial.touch()  # an empty file needs no request
    with tqdm(total=content.size, desc=content.name, unit="B", unit_scale=True, leave=False, name=__name__) as bar:
        while (have := _size(partial)) < content.size:
            try:
                with readable():
                    _append(partial, url, headers, have, content.size, bar)
            except TransportError as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status in EXPIRED and _from_storage(error, url) and links < BROKEN_LINKS:
                    links += 1
                    continue
                failures = 1 if _size(partial) > most else failures + 1
                most = max(most, _size(partial))
                bar.set_postfix_str(f"attempt {failures + 1}")
                PATIENCE.wait(failures, error, f" to get {content.name}{_kept(partial, content)}")
    if _size(partial) > content.size:
        partial.unlink()  # longer than the file; the hash check reports it


def _append(partial: Path, url: str, headers: dict[str, str], have: int, size: int, bar: Any) -> None:
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=asked, timeout=timeout, follow_redirects=True) as response:
        if response.status_code == 416:
            partial.unlink()
            raise TransportError(f"the Hub has no byte {have} of a file of {size} bytes")
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        bar.update((have if resumed else 0) - bar.n)
        with partial.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    return
    if _size(partial) < size:
        raise TransportError(f"the answer ended after {_size(partial):,} of {size:,} bytes")


def _from_storage(error: Any, url: str) -> bool:
    """Whether the refusal came from the storage host to which the Hub redirected, not from the Hub."""
    return str(error.response.url).partition("?")[0] != url.partition("?")[0]


def _kept(partial: Path, content: Content) -> str:
    """The end of an error message: how many bytes are in the partial file."""
    size = _size(partial)
    return f"; {size:,} of {content.size:,} bytes are here, and the next pull goes on from there" if size else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
