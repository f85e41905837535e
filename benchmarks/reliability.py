"""Do to pulls and to a local Hub what networks, servers, disks and strangers do, and write down what happened.

Every case of tests/faults/cases.py runs against a real server, with content that was uploaded by LFS and by Xet, and
every attack of tests/faults/attacks.py on a local Hub. Anything but the right weights, a clear error, or the end that
an attack names, stops the run. It writes reliability.json after each part, and docs/concepts/reliability.md from it.

    python benchmarks/reliability.py [--quick] [PART ...]

All parts take some ten minutes on two cores; with `--quick`, two, and nothing is written.
"""

import json
import os
import random
import re
import shutil
import socket
import statistics
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
# huggingface_hub reads its environment when it is imported
os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{PORT}",
    HF_HOME=tempfile.mkdtemp(),
    HF_TOKEN="local",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TIMM_BACKBONES_EXT_FIRST_WAIT="0.01",
)
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

import huggingface_hub
import timm
import torch
from attacks import ATTACKS, TOKENS
from cases import CASES, ERRORS, killed
from faulty import FaultyHub
from huggingface_hub import HfApi, constants
from kills import killed_servers
from mutations import mutations
from world import CONFIG, RIGHT, WEIGHTS, fresh

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.errors import HubError
from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.fsck import fsck
from timm_backbones_ext.transport import Repo

PAGE, FIGURES = Path(__file__).parents[1] / "docs" / "concepts" / "reliability.md", Path(__file__).with_suffix(".json")
QUICK = "--quick" in sys.argv
NAME = "ext_convnext_atto"
TRANSPORTS = {"LFS": True, "Xet": False}
"""Whether Xet is off at the client that uploads."""
HEAD = """# Reliability

Written by `python benchmarks/reliability.py`. A real client pulls a `{name}` of {size:.1f} MB over HTTP from a Hub on
this machine, while the network, the server, the disk or a stranger does what the table says. The content was uploaded
by LFS and, a second time, by Xet; pulls read both over plain HTTP, which can be resumed and checked. A case ends in the
right weights or in an error; wrong weights, an exception from inside, a hang or a damaged file left in the cache would
have ended the run.

{versions}

| figure | value |
|---|---|
"""
FAULTS = """
## What is done, and what the user gets

| what is done | LFS | Xet | what the error says |
|---|---|---|---|
"""
MUTATED = """
## Random changes

{count:,} random changes (bits, bytes, digits, parts cut out or doubled; one to three at a time, seeded) of a valid
`config.json` and as many of a valid safetensors header, in a folder, where no hash protects them:

| outcome | of a config | of a header |
|---|---|---|
"""
SERVER = """
## What is done to a local Hub

By a stranger, a reader, a writer of another namespace or a careless client, over HTTP, to a server with tokens. After
all of it `fsck` found no damage. Another end would have ended the run.

| what is done | what happens | tried |
|---|---|---|
"""


def main() -> None:
    chosen = [word for word in sys.argv[1:] if not word.startswith("-")] or [*PARTS]
    found = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    torch.manual_seed(0)
    model = testing.calibrate(timm.create_model(NAME, edits="eca", num_classes=3)).eval()
    saved = tbx.save(model, tempfile.mkdtemp())
    found |= {"model": NAME, "bytes": (saved / WEIGHTS).stat().st_size, "versions": versions()}
    constants.HF_HUB_DOWNLOAD_TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT = 2
    with FaultyHub(port=PORT) as hub:
        for name in chosen:
            found[name] = PARTS[name](hub, saved)
            print(name, found[name], flush=True)
            if not QUICK:
                FIGURES.write_text(json.dumps(found, indent=2) + "\n")
    shutil.rmtree(saved)
    if not QUICK:
        PAGE.write_text(page(found), encoding="utf-8")


def versions() -> str:
    """What the figures were measured with."""
    text = f"Python {sys.version.split()[0]}, torch {torch.__version__}, timm {timm.__version__}, "
    return text + f"huggingface_hub {huggingface_hub.__version__}, {os.cpu_count()} CPU cores."


def page(found: dict[str, Any]) -> str:
    """docs/concepts/reliability.md."""
    head = HEAD.format(name=found["model"], size=found["bytes"] / 1e6, versions=textwrap.fill(found["versions"], 120))
    figures = {**found["requests"], **found["seconds"], **found["resumed"], **found["flipped"]}
    text = head + rows(figures.items()) + FAULTS + rows(found["faults"])
    count = sum(found["mutations"][CONFIG].values())
    return text + MUTATED.format(count=count) + rows(kinds(found["mutations"])) + SERVER + rows(found["server"])


def rows(cells: object) -> str:
    """Lines of a table."""
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in cells)


def requests(hub: FaultyHub, saved: Path) -> dict[str, str]:
    """How many requests pulls take."""
    commit, cache = tbx.push_to_hub(saved, "me/figures").oid, tempfile.mkdtemp()
    hub.faults()
    tbx.pull("me/figures", cache_dir=cache)
    cold = len(hub.faults())
    tbx.pull("me/figures", commit, cache_dir=cache)
    warm = len(hub.faults())
    shutil.rmtree(cache)
    asked = {"requests of a cold pull, redirects counted": cold, "requests of a warm pull at a locked commit": warm}
    return {key: str(value) for key, value in asked.items()}


def seconds(hub: FaultyHub, saved: Path) -> dict[str, str]:
    """How long `verify` of a saved folder takes."""
    folder, threads = tbx.save(timm.create_model("ext_resnet18"), tempfile.mkdtemp()), torch.get_num_threads()
    torch.set_num_threads(1)  # others may keep the second core busy, and a thread that waits for it measures them
    took = []
    for _ in range(41):
        start = time.perf_counter()
        assert tbx.verify(folder).same
        took.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    shutil.rmtree(folder)
    said = f"{min(took):.2f} s; median {statistics.median(took):.2f} s"
    return {"`verify` of an `ext_resnet18`, one thread, fastest of 41": said}


def resumed(hub: FaultyHub, saved: Path) -> dict[str, str]:
    """What another process fetches after a puller was killed."""
    with fresh(hub, "me/killed", saved) as world:
        outcome, have, fetched = killed(world)
    size = (saved / WEIGHTS).stat().st_size
    assert outcome == RIGHT, outcome
    assert have + fetched == size, f"{have} bytes were there and {fetched} of {size} were fetched"
    return {
        "bytes that were there after SIGKILL, and that the next process fetched": f"{have:,} + {fetched:,} = {size:,}"
    }


def flipped(hub: FaultyHub, saved: Path) -> dict[str, str]:
    """How many single bytes, flipped on their way, are noticed."""
    found, api = {}, HfApi()
    content = (saved / WEIGHTS).read_bytes()[: 20_000 if QUICK else 200_000]
    for name, disable in TRANSPORTS.items():
        constants.HF_HUB_DISABLE_XET = disable
        repo, cache = f"me/bytes-{name}", tempfile.mkdtemp()
        data = content + random.Random(name).randbytes(1)
        api.create_repo(repo)
        api.upload_file(path_or_fileobj=data, path_in_repo=WEIGHTS, repo_id=repo)
        places, refused = range(0, len(data), 1000), 0
        for at in places:
            hub.faults({"kind": "flip", "where": "/storage/", "at": at, "times": 2})
            try:
                Repo(repo, cache_dir=cache).file(WEIGHTS)
            except HubError:
                refused += 1
        hub.faults()
        assert Repo(repo, cache_dir=cache).file(WEIGHTS).read_bytes() == data
        assert refused == len(places), f"{refused} of {len(places)} flipped bytes were refused"
        found[f"every 1,000th byte of {len(data):,} flipped, one at a time, {name}"] = (
            f"{refused:,} of {len(places):,} refused"
        )
        shutil.rmtree(cache)
    return found


def faults(hub: FaultyHub, saved: Path) -> list[list[str]]:
    """What the user gets, for each case and transport."""
    found = []
    for number, (name, run) in enumerate(CASES.items()):
        row, said = [name], ""
        for transport, disable in TRANSPORTS.items():
            constants.HF_HUB_DISABLE_XET = disable
            with fresh(hub, f"faults/{transport.lower()}-{number}", saved) as world:
                said = run(world)
            assert re.search(ERRORS.get(name, f"^{RIGHT}$"), said), f"{name}: {said}"
            row.append(said if said == RIGHT else "error")
        row.append("" if said == RIGHT else readable(said, world.repo))
        print(*row, sep=" | ", file=sys.stderr, flush=True)
        found.append(row)
    return found


def mutated(hub: FaultyHub, saved: Path) -> dict[str, dict[str, int]]:
    """How often each kind of outcome came of random changes of a config and of a header."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = {name: pool.submit(mutations, saved, name, 50 if QUICK else 1000) for name in (CONFIG, WEIGHTS)}
        return {name: dict(job.result()) for name, job in jobs.items()}


def server(hub: FaultyHub, saved: Path) -> list[tuple[str, str, int]]:
    """What is done to a local Hub, what happens, and how often it was tried."""
    with tempfile.TemporaryDirectory() as scratch:
        with LocalHub(Path(scratch, "hub"), TOKENS) as hub:
            found = [(done, happens, run(hub)) for done, (happens, run) in ATTACKS.items()]
        assert fsck(Path(scratch, "hub")) == []
        times = 5 if QUICK else 20
        commits = killed_servers(Path(scratch, "killed"), times)
    return [*found, (f"the server killed {times} times under {commits} confirmed commits", "all are there", times)]


def kinds(found: dict[str, dict[str, int]]) -> list[tuple[str, int, int]]:
    """The kinds of outcome of mutations, the most frequent first."""
    config, header = Counter(found[CONFIG]), Counter(found[WEIGHTS])
    return [(kind, config[kind], header[kind]) for kind, _ in (config + header).most_common()]


def readable(error: str, repo: str) -> str:
    """An error without what differs from run to run, short enough for a table."""
    text = re.sub(rf"{repo}(@[0-9a-f]{{40}}|@main)?(: )?", lambda found: "" if found[2] else "REPO", error)
    text = re.sub(r"(?<![\w.])/[^\s')]+", "FOLDER", text).replace("|", "/")
    return textwrap.shorten(text, 100, placeholder=" ...")


PARTS: dict[str, Callable[[FaultyHub, Path], Any]] = {
    "requests": requests,
    "seconds": seconds,
    "resumed": resumed,
    "flipped": flipped,
    "faults": faults,
    "mutations": mutated,
    "server": server,
}

if __name__ == "__main__":
    main()
