"""What may go wrong between a Hub and a user, as things that are done to a real server, cache or repo.

Each case ends in the right weights or in an error that a user understands. `test_faults.py` runs them all, and
`benchmarks/reliability.py` writes what they said to docs/concepts/reliability.md.
"""

import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from safetensors.torch import save
from world import RIGHT, WEIGHTS, World

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import sha256_of

__all__ = ["CASES", "ERRORS", "killed"]

MB = 1 << 20
CASES: dict[str, Callable[[World], str]] = {}
ERRORS = {
    "connection always reset": r"cannot be reached and this revision is not in the cache .*\(tried 6 times\)",
    "one byte of the weights always flipped": "model.safetensors arrived damaged twice",
    "one byte of the config always flipped": "config.json arrived damaged twice",
    "API always answers 503": r"the Hub answered 503: .*\(tried 6 times\)",
    "storage always answers 500": r"the Hub answered 500: .*\(tried 6 times to get model.safetensors\)",
    "no such revision": "no such branch, tag or commit",
    "safetensors file cut short in the repo": "is damaged or is not a safetensors file",
    "header that points outside the file": "is damaged or is not a safetensors file",
    "header of 11 MB": "is damaged or is not a safetensors file",
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


def case(name: str) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    def register(run: Callable[[World], str]) -> Callable[[World], str]:
        CASES[name] = run
        return run

    return register


def simple(name: str, *rules: dict, **kwargs: Any) -> None:
    """A case that is a fault of the network or the server; `at` below 1 is a part of the weights."""

    def run(world: World) -> str:
        world.hub.faults(*[{**rule, "at": world.part(rule["at"])} if "at" in rule else rule for rule in rules])
        return world.pull(**kwargs)

    CASES[name] = run


simple("connection cut after three quarters", {"kind": "cut", "where": "/storage/", "at": 0.75})
simple(
    "connection cut after three quarters, three times", {"kind": "cut", "where": "/storage/", "at": 0.75, "times": 3}
)
simple("connection reset before each answer, three times", {"kind": "reset", "where": "/", "times": 3})
simple("connection always reset", {"kind": "reset", "where": "/", "times": -1})
simple(
    "cut after three quarters, and a server that ignores Range",
    {"kind": "cut", "where": "/storage/", "at": 0.75},
    {"kind": "no_range", "where": "/storage/"},
)
simple("body shorter than the file", {"kind": "short", "where": "/storage/", "at": 0.4})
simple("one byte of the weights flipped once", {"kind": "flip", "where": "/storage/", "at": 0.5})
simple("one byte of the weights always flipped", {"kind": "flip", "where": "/storage/", "at": 0.5, "times": -1})
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
simple("storage hangs in the middle", {"kind": "stall", "where": "/storage/", "at": 0.75, "seconds": 5})
simple("no such revision", revision="deleted")


@case("safetensors file cut short in the repo")
def _truncated(world: World) -> str:
    world.put(WEIGHTS, (world.saved / WEIGHTS).read_bytes()[: world.part(0.4)])
    return world.pull()


@case("header that points outside the file")
def _outside(world: World) -> str:
    header = json.dumps({"stem.0.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    world.put(WEIGHTS, len(header).to_bytes(8, "little") + header + b"\0" * 8)
    return world.pull()


@case("header of 11 MB")
def _bomb(world: World) -> str:
    bomb = world.scratch / "bomb"
    with bomb.open("wb") as file:
        file.write((11 * MB).to_bytes(8, "little") + b'{"a":"')
        file.truncate(11 * MB + 8)
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
    world.hub.faults({"kind": "stall", "where": "/storage/", "at": world.part(0.75), "seconds": 60})
    script = f"import timm_backbones_ext as tbx; tbx.pull({world.repo!r}, cache_dir={str(world.cache)!r})"
    child = subprocess.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 120
    while not (partial := [p for p in world.cache.rglob("*.incomplete") if p.stat().st_size > world.part(0.4)]):
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
        resource.setrlimit(resource.RLIMIT_FSIZE, (world.part(0.6), world.part(0.6)))
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
