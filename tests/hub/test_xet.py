"""What our client does with a Hub that serves Xet, which the Hub does and a local one does not."""

from pathlib import Path

import pytest
import timm
from faulty import FaultyHub
from huggingface_hub import constants, get_hf_file_metadata

import timm_backbones_ext as tbx


def test_a_pull_takes_plain_http_from_a_hub_that_offers_xet(
    local_hub: FaultyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    saved = tbx.save(timm.create_model("ext_test_resnet", num_classes=3), tmp_path / "saved")
    commit = tbx.push_to_hub(saved, "me/offered").oid
    local_hub.faults({"kind": "xet", "where": "/resolve/", "times": -1})
    url = f"{local_hub.endpoint}/me/offered/resolve/{commit}/model.safetensors"
    assert get_hf_file_metadata(url).xet_file_data is not None  # the client of the Hub takes the offer
    local_hub.faults({"kind": "xet", "where": "/resolve/", "times": -1})
    folder = tbx.pull("me/offered", cache_dir=tmp_path / "cache", check=False)
    assert (folder / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    asked = [path for _, path, *_ in local_hub.faults()]
    assert any("/storage/" in path for path in asked)
    assert not any("xet" in path for path in asked)
