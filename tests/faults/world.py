"""A Hub with one backbone on it, and a user whose cache is empty: where the cases of `cases.py` happen."""

import json
import multiprocessing
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faulty import FaultyHub
from huggingface_hub import HfApi

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import sha256_of

__all__ = ["CONFIG", "RIGHT", "WEIGHTS", "World", "fresh"]

RIGHT = "right weights"
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass
class World:
    """A Hub with one backbone on it, and a user whose cache is empty."""

    hub: FaultyHub
    repo: str
    saved: Path
    """The folder that was pushed."""
    scratch: Path
    api: HfApi = field(default_factory=HfApi)

    @property
    def cache(self) -> Path:
        """The user's cache."""
        return self.scratch / "cache"

    def part(self, at: float) -> int:
        """The byte at a part of the weights."""
        return int(at * (self.saved / WEIGHTS).stat().st_size) if at < 1 else int(at)

    def pull(self, **kwargs: Any) -> str:
        """What a pull ends in: the right weights, or the error that the user reads; everything else is a failure."""
        options = {"cache_dir": self.cache, "check": False, **kwargs}
        try:
            folder = tbx.pull(options.pop("repo", self.repo), **options)
        except (tbx.HubError, tbx.WeightsError) as error:
            for blob in self.cache.glob("models--*/blobs/*"):  # nothing that is wrong stays behind as if it were right
                assert len(blob.name) != 64 or sha256_of(blob) == blob.name
            return " ".join(str(error).split())
        assert (folder / WEIGHTS).read_bytes() == (self.saved / WEIGHTS).read_bytes(), "wrong weights were accepted"
        return RIGHT

    def put(self, name: str, content: bytes | str | Path) -> None:
        """Replace a file of the repo."""
        content = content.encode() if isinstance(content, str) else content
        self.api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=self.repo)

    def config(self, **changes: Any) -> None:
        """Replace entries of the repo's config."""
        self.put(CONFIG, json.dumps({**json.loads((self.saved / CONFIG).read_text()), **changes}))

    def in_child(self, call: Callable[[], str]) -> str:
        """The outcome of a call in a forked process."""
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=lambda: queue.put(_said(call)))
        child.start()
        outcome = queue.get(timeout=120)
        child.join()
        return outcome


def _said(call: Callable[[], str]) -> str:
    try:
        return call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def fresh(hub: FaultyHub, repo: str, saved: Path) -> Generator[World]:
    """A world of its own for a case."""
    hub.faults()
    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(folder_path=saved, repo_id=repo)
    scratch = Path(tempfile.mkdtemp())
    for path in (saved, *saved.iterdir(), scratch):  # others than root read them too
        path.chmod(0o755)
    try:
        yield World(hub, repo, saved, scratch)
    finally:
        hub.faults()
        subprocess.run(["chmod", "-R", "u+w", scratch], check=True)
        shutil.rmtree(scratch)
