"""Do to pulls what networks, servers, disks and strangers do, and write down what happened: docs/reliability.md.

Every case of tests/hub/cases.py runs against a real server, with content that was uploaded by LFS and by Xet.
"""

import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "hub"))
with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
# huggingface_hub reads its environment when it is imported
os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{PORT}",
    HF_HOME=tempfile.mkdtemp(),
    HF_TOKEN="local",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)

from faulty import FaultyHub  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# Reliability

Written by `python benchmarks/reliability.py`, which does each of these things to a real server, cache or repo of a
`{name}` ({size:.0f} MB) while the real client pulls it. The content was uploaded once by LFS and once by Xet, as the
client does by default; pulls read both over HTTP. What a repo, a path or a hash is called is left out of the errors.

| figure | value |
|---|---|
| requests of a cold pull, redirects counted | {cold} |
| requests of a warm pull at a locked commit | {warm} |
| `verify` of an `ext_resnet18` (median of 5) | {verify:.2f} s |
| bytes that were flipped, one at a time, on their way | {flipped} |
| of these refused | {refused} |

{versions}

## What happens

| what is done | by LFS | by Xet |
|---|---|---|
"""


def main() -> None:
    with FaultyHub(port=PORT) as hub:
        import timm
        import torch
        from cases import CASES, fresh
        from huggingface_hub import constants

        import timm_backbones_ext as tbx
        from timm_backbones_ext import testing
        from timm_backbones_ext.transfer import PATIENCE

        torch.manual_seed(0)
        model = testing.calibrate(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3)).eval()
        saved = tbx.save(model, tempfile.mkdtemp())
        figures = measured(hub, saved)
        PATIENCE.first_wait, constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT = 0.01, 2, 2
        rows = []
        for number, (name, run) in enumerate(CASES.items()):
            outcomes = []
            for disable in (True, False):
                constants.HF_HUB_DISABLE_XET = disable
                with fresh(hub, f"faults/{'lfs' if disable else 'xet'}-{number}", saved) as world:
                    outcomes.append(readable(run(world), str(world.scratch), world.repo))
            rows.append(f"| {name} | {outcomes[0]} | {outcomes[1] if outcomes[1] != outcomes[0] else 'the same'} |")
            print(rows[-1], flush=True)
        shutil.rmtree(saved)
    size = (figures.pop("bytes")) / 1e6
    versions = (
        f"Python {sys.version.split()[0]}, torch {torch.__version__}, huggingface_hub {hub_version()}, 2 CPU cores."
    )
    text = HEAD.format(name="ext_convnext_atto", size=size, versions=versions, **figures) + "\n".join(rows) + "\n"
    PAGE.write_text(text, encoding="utf-8")


def measured(hub: FaultyHub, saved: Path) -> dict:
    """Requests, seconds and flipped bytes."""
    import timm
    from huggingface_hub import HfApi, constants

    import timm_backbones_ext as tbx
    from timm_backbones_ext.transfer import HubError, Repo

    cache, found = tempfile.mkdtemp(), {"bytes": (saved / "model.safetensors").stat().st_size}
    commit = tbx.push_to_hub(saved, "me/figures").oid
    hub.faults()
    tbx.pull("me/figures", cache_dir=cache)
    found["cold"] = len(hub.faults())
    tbx.pull("me/figures", commit, cache_dir=cache)
    found["warm"] = len(hub.faults())
    folder = tbx.save(timm.create_model("ext_resnet18"), tempfile.mkdtemp())
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert tbx.verify(folder).same
        seconds.append(time.perf_counter() - start)
    found["verify"] = statistics.median(seconds)
    content, api = os.urandom(100_000), HfApi()
    found["flipped"] = found["refused"] = 0
    for disable in (True, False):
        constants.HF_HUB_DISABLE_XET = disable
        data = content + bytes([disable])
        api.create_repo("me/bytes", exist_ok=True)
        api.upload_file(path_or_fileobj=data, path_in_repo="model.safetensors", repo_id="me/bytes")
        for at in range(0, len(data), 1000):
            hub.faults({"kind": "flip", "where": "/storage/", "at": at, "times": 2})
            found["flipped"] += 1
            try:
                Repo("me/bytes", cache_dir=cache).file("model.safetensors")
            except HubError:
                found["refused"] += 1
    hub.faults()
    shutil.rmtree(cache)
    shutil.rmtree(folder)
    return found


def readable(outcome: str, scratch: str, repo: str) -> str:
    """An outcome without what differs from run to run, short enough for a table."""
    import re

    text = outcome.replace(scratch, "").replace(f"{repo}@main", "REPO").replace(repo, "REPO").replace("|", "/")
    text = re.sub(r"[0-9a-f]{40,64}|https?://\S+|Request ID: [\w-]+", "...", text)
    return text if len(text) < 160 else text[:157].rstrip() + " ..."


def hub_version() -> str:
    import huggingface_hub

    return huggingface_hub.__version__


if __name__ == "__main__":
    main()
