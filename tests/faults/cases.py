"""What may go wrong between a Hub and a user, as things that are done to a real server, cache or repo.

Each case ends in the right weights or in an error that a user understands. `test_faults.py` runs them all, and
`benchmarks/reliability.py` writes what they said to docs/reliability.md.
"""

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faulty import FaultyHub
from huggingface_hub import HfApi
from safetensors.torch import save

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import sha256_of

__all__ = ["CASES", "ERRORS", "RIGHT", "World", "fresh", "killed"]

RIGHT = "right weights"
MB = 1 << 20
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CASES: dict[str, Callable[["World"], str]] = {}
ERRORS = {
    "connection always reset": r"cannot be reached and this revision is not in the cache .*\(tried 6 times\)",
    "one byte of the weights always flipped": "model.safetensors arrived damaged twice",
    "one byte of the config always flipped": "config.json arrived damaged twice",
    "API always answers 503": r"the Hub answered 503: .*\(tried 6 times\)",
    "storage always answers 500": r"the Hub answered 500: .*\(tried 6 times to get model.safetensors\)",
    "no such revision": "no such branch, tag or commit",
    "safetensors file cut short in the repo": "is damaged or is not a safetensors file",
    "header that points outside the file": "is damaged or is not a safetensors file",
    "header of 100 MB": "is damaged or is not a safetensors file",
    "weights of another model": r"do not fit ext_convnext_atto, nothing was loaded: .*missing \(",
    "disk full": "no space left for model.safetensors",
    "cache that cannot be written to, cold": "is not in the cache, which cannot be written to",
    "revision deleted after it was pulled": "no such branch, tag or commit",
    "private repo without a token": "no such repo, or a private one. If it is yours, run `hf auth login`",
    "gated repo without a token": "is gated: ask for access on its page",
    "pickle only": r"has no model.safetensors, and pickles are not read. Convert",
    "pickle beside safetensors that fail": "the Hub answered 503",
    "config that names an architecture of another size": "do not fit ext_convnext_femto",
    "config that names an unknown architecture": "unknown architecture 'ext_convnext_yocto'",
    "model_args of wrong types": r"config.json does not fit any model",
    "model_args that no model has": r"config.json does not fit any model .*shell",
    "model_args for a model of terabytes": "no backbone has so many of anything",
    "edits that are code": r"config.json does not fit any model",
    "path that leads out of the cache": "is not a path inside a repo; nothing was loaded",
}
"""What the error says; a case that is not here ends in the right weights."""


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


def case(name: str) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    def register(run: Callable[[World], str]) -> Callable[[World], str]:
        CASES[name] = run
        return run

    return register


def simple(name: str, *rules: dict, **kwargs: Any) -> None:
    """A case that is a fault of the network or the server."""

    def run(world: World) -> str:
        world.hub.faults(*rules)
        return world.pull(**kwargs)

    CASES[name] = run


simple("connection cut at 10 MB", {"kind": "cut", "where": "/storage/", "at": 10 * MB})
simple("connection cut at 10 MB, three times", {"kind": "cut", "where": "/storage/", "at": 10 * MB, "times": 3})
simple("connection reset before each answer, three times", {"kind": "reset", "where": "/", "times": 3})
simple("connection always reset", {"kind": "reset", "where": "/", "times": -1})
simple(
    "cut at 10 MB, and a server that ignores Range",
    {"kind": "cut", "where": "/storage/", "at": 10 * MB},
    {"kind": "no_range", "where": "/storage/"},
)
simple("body shorter than the file", {"kind": "short", "where": "/storage/", "at": 5 * MB})
simple("one byte of the weights flipped once", {"kind": "flip", "where": "/storage/", "at": 7 * MB})
simple("one byte of the weights always flipped", {"kind": "flip", "where": "/storage/", "at": 7 * MB, "times": -1})
simple("one byte of the config flipped once", {"kind": "flip", "where": "/resolve/", "at": 40})
simple("one byte of the config always flipped", {"kind": "flip", "where": "config.json", "at": 40, "times": -1})
simple("API answers 429 with Retry-After", {"kind": "status", "where": "/api/", "status": 429, "after": 1})
for code in (500, 502, 503, 504):
    simple(f"API answers {code} twice", {"kind": "status", "where": "/api/", "status": code, "times": 2})
    simple(f"storage answers {code} twice", {"kind": "status", "where": "/storage/", "status": code, "times": 2})
simple("storage answers 429 with Retry-After", {"kind": "status", "where": "/storage/", "status": 429, "after": 1})
simple("signed link expired", {"kind": "status", "where": "/storage/", "status": 403})
simple("API always answers 503", {"kind": "status", "where": "/api/", "status": 503, "times": -1})
simple("storage always answers 500", {"kind": "status", "where": "/storage/", "status": 500, "times": -1})
simple("API hangs once", {"kind": "hang", "where": "/api/", "seconds": 5})
simple("storage hangs once", {"kind": "hang", "where": "/storage/", "seconds": 5})
simple("storage hangs in the middle", {"kind": "stall", "where": "/storage/", "at": 10 * MB, "seconds": 5})
simple("no such revision", revision="deleted")


@case("safetensors file cut short in the repo")
def _truncated(world: World) -> str:
    world.put(WEIGHTS, (world.saved / WEIGHTS).read_bytes()[: 5 * MB])
    return world.pull()


@case("header that points outside the file")
def _outside(world: World) -> str:
    header = json.dumps({"stem.0.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    world.put(WEIGHTS, len(header).to_bytes(8, "little") + header + b"\0" * 8)
    return world.pull()


@case("header of 100 MB")
def _bomb(world: World) -> str:
    bomb = world.scratch / "bomb"
    with bomb.open("wb") as file:
        file.write((100 * MB).to_bytes(8, "little") + b'{"a":"')
        file.truncate(100 * MB + 8)
    world.put(WEIGHTS, bomb)
    return world.pull()


@case("weights of another model")
def _strangers(world: World) -> str:
    few = {key: value for key, value in _model(world).state_dict().items() if "stages.3" not in key}
    world.put(WEIGHTS, save(few))
    return world.pull()


@case("puller killed in the middle")
def _killed(world: World) -> str:
    outcome, have, fetched = killed(world)
    missing = (world.saved / WEIGHTS).stat().st_size - have
    assert fetched == missing, f"fetched {fetched} bytes, and {missing} were missing"
    return outcome


def killed(world: World) -> tuple[str, int, int]:
    """Kill a puller, and pull: the outcome, the bytes of weights that were there, and those fetched."""
    world.hub.faults({"kind": "stall", "where": "/storage/", "at": 10 * MB, "seconds": 60})
    script = f"import timm_backbones_ext as tbx; tbx.pull({world.repo!r}, cache_dir={str(world.cache)!r})"
    child = subprocess.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 120
    while not (partial := [p for p in world.cache.rglob("*.incomplete") if p.stat().st_size > 5 * MB]):
        assert time.monotonic() < until, "the puller did not start"
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = partial[0].stat().st_size
    world.hub.faults()
    outcome = world.pull()
    digest = sha256_of(world.saved / WEIGHTS)
    return outcome, have, sum(seen[3] for seen in world.hub.faults() if digest in seen[1])


@case("four processes at once")
def _four(world: World) -> str:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    world.hub.faults()
    children = [context.Process(target=lambda: queue.put(world.pull())) for _ in range(4)]
    for child in children:
        child.start()
    outcomes = {queue.get(timeout=120) for _ in children}
    for child in children:
        child.join()
    size = (world.saved / WEIGHTS).stat().st_size
    largest = [seen for seen in world.hub.faults() if "/storage/" in seen[1]]
    assert len(largest) == 2, f"weights and fingerprint once each; got {len(largest)} requests for {size} bytes"
    return " and ".join(outcomes)


@case("disk full")
def _full(world: World) -> str:
    def call() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MB, 8 * MB))
        return world.pull()

    outcome = world.in_child(call)
    assert not list(world.cache.rglob("*.incomplete")), "the useless part still takes space"
    return outcome


@case("cache that cannot be written to, cold")
def _cold(world: World) -> str:
    world.cache.mkdir()
    return world.in_child(lambda: _without_rights(world))


@case("cache that cannot be written to, warm")
def _warm(world: World) -> str:
    world.pull()
    return world.in_child(lambda: _without_rights(world))


def _said(call: Callable[[], str]) -> str:
    try:
        return call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def _without_rights(world: World) -> str:
    for path in (world.cache, *world.cache.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555)
    if os.geteuid() == 0:  # root may write anyway
        os.seteuid(65534)
    return world.pull()


@case("revision deleted after it was pulled")
def _deleted(world: World) -> str:
    world.api.create_branch(world.repo, branch="gone")
    assert world.pull(revision="gone") == RIGHT
    world.api.delete_branch(world.repo, branch="gone")
    return world.pull(revision="gone")


@case("repo renamed")
def _renamed(world: World) -> str:
    new = f"renamed/{world.repo.partition('/')[2]}"
    world.api.create_repo(new)
    world.api.upload_folder(folder_path=world.saved, repo_id=new)
    world.hub.faults({"kind": "moved", "where": world.repo, "from": world.repo, "to": new, "times": -1})
    return world.pull()


@case("private repo without a token")
def _private(world: World) -> str:
    world.api.update_repo_settings(world.repo, private=True)
    return world.pull(token=False)


@case("gated repo without a token")
def _gated(world: World) -> str:
    world.hub.faults({"kind": "gated", "where": "/resolve/", "times": -1})
    return world.pull(token=False)


@case("pickle only")
def _pickle(world: World) -> str:
    world.put("pytorch_model.bin", pickle.dumps({}))
    world.api.delete_file(WEIGHTS, world.repo)
    return world.pull()


@case("pickle beside safetensors that fail")
def _beside(world: World) -> str:
    world.put("pytorch_model.bin", pickle.dumps({}))
    world.hub.faults({"kind": "status", "where": "model.safetensors", "status": 503, "times": -1})
    outcome = world.pull()
    assert not [seen for seen in world.hub.faults() if "pytorch_model" in seen[1]], "the pickle was asked for"
    return outcome


@case("config that names an architecture of another size")
def _other(world: World) -> str:
    world.config(architecture="ext_convnext_femto")
    return world.pull()


@case("config that names an unknown architecture")
def _unknown(world: World) -> str:
    world.config(architecture="ext_convnext_yocto")
    return world.pull()


@case("model_args of wrong types")
def _types(world: World) -> str:
    world.config(model_args={"output_stride": "thirty-two"})
    return world.pull()


@case("model_args that no model has")
def _args(world: World) -> str:
    world.config(model_args={"shell": "rm -rf"})
    return world.pull()


@case("model_args for a model of terabytes")
def _huge(world: World) -> str:
    world.config(num_classes=10**12)
    return world.pull()


@case("edits that are code")
def _code(world: World) -> str:
    world.config(model_args={"edits": ["__import__('os').system('true')"]})
    return world.pull()


@case("path that leads out of the cache")
def _traversal(world: World) -> str:
    """A server that lies about its files; a mirror copies all names that it is told."""
    from timm_backbones_ext.local_hub.mirror import mirror

    world.hub.faults({"kind": "rename", "where": "/api/models", "from": "README.md", "to": "../../evil", "times": -1})
    try:
        mirror(world.repo, world.scratch / "mirror")
    except tbx.HubError as error:
        assert not list(world.scratch.rglob("evil"))
        return " ".join(str(error).split())
    return "copied"


def _model(world: World) -> Any:
    import timm

    return timm.create_model(f"local-dir:{world.saved}")


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
