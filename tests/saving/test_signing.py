"""Signatures: what is signed is verified, what is not is refused."""

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi

import timm_backbones_ext as tbx
from timm_backbones_ext.cli.main import main

REPO = "signing/backbone"


def test_what_is_signed_is_verified_and_what_is_not_is_refused(saved: Path, tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("key.pem", "key.pub", "other.pem", "other.pub")]
    for private, public in (keys[:2], keys[2:]):
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
        command = ["openssl", "ec", "-in", private, "-pubout", "-out", public]
        subprocess.run(command, check=True, capture_output=True)
    repo = "pull/signed"
    tbx.push_to_hub(saved, repo, sign=keys[0])
    assert HfApi().file_exists(repo, "model.sig")
    assert tbx.verify(repo, trust=keys[1]).same
    said = CliRunner().invoke(main, ["verify", repo, "--trust", str(keys[1])])
    assert "signed by the holder of" in said.output
    with pytest.raises(tbx.HubError, match=r"the signature is not one of .*other.pub"):
        tbx.verify(repo, trust=keys[3])
    with pytest.raises(tbx.HubError, match=r"is not signed: it has no model.sig"):
        tbx.verify(REPO, trust=keys[1])
    HfApi().upload_file(
        path_or_fileobj=(saved / "config.json").read_bytes() + b"\n", path_in_repo="config.json", repo_id=repo
    )
    with pytest.raises(tbx.HubError, match="the signature is not one of"):
        tbx.verify(repo, trust=keys[1])
    with pytest.raises(ValueError, match="cannot sign with"):
        tbx.push_to_hub(saved, repo, sign=keys[1])
