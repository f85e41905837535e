"""Each byte of a file matters, whatever way it comes."""

import random
from pathlib import Path

import pytest
from faulty import FaultyHub
from huggingface_hub import HfApi, constants

import timm_backbones_ext as tbx
from timm_backbones_ext.transport import Repo

REPO = "bytes/backbone"


def test_every_single_byte_matters(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    """Every 1,000th byte of a file in LFS, and in Xet if the client uploads so, is flipped on its way, twice."""
    content = random.Random(0).randbytes(60_000)
    api = HfApi()
    api.create_repo("pull/bytes", exist_ok=True)
    refused = 0
    for disable in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HUB_DISABLE_XET", disable)
            data = content + bytes([disable])
            api.upload_file(path_or_fileobj=data, path_in_repo="model.safetensors", repo_id="pull/bytes")
        for at in range(0, len(data), 1000):
            local_hub.faults({"kind": "flip", "where": "/storage/", "at": at, "times": 2})
            with pytest.raises(tbx.HubError, match="arrived damaged twice"):
                Repo("pull/bytes", cache_dir=tmp_path).file("model.safetensors")
            refused += 1
    assert refused == 122
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".lock", "")]
    local_hub.faults()
    assert Repo("pull/bytes", cache_dir=tmp_path).file("model.safetensors").read_bytes() == data


@pytest.mark.filterwarnings("ignore:About to commit an empty file")
def test_an_empty_file_arrives_and_an_answer_that_is_too_long_does_not(local_hub: FaultyHub, tmp_path: Path) -> None:
    api = HfApi()
    api.create_repo("pull/empty")
    for name, content in {"empty.txt": b"", "long.txt": b"0123456789"}.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="pull/empty")
    repo = Repo("pull/empty", cache_dir=tmp_path)
    assert repo.file("empty.txt").read_bytes() == b""
    local_hub.faults({"kind": "rename", "where": "long.txt", "from": "5", "to": "5" * 50, "times": -1})
    with pytest.raises(tbx.HubError, match=r"long.txt arrived damaged twice"):
        repo.file("long.txt")
