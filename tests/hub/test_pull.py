"""Pulls: what is asked of the Hub, what is checked before anything is loaded, and what a lock holds."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from cases import RIGHT
from click.testing import CliRunner
from faulty import FaultyHub
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from mutations import mutations
from safetensors.torch import load_file, save_file

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli import main
from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.mirror import mirror
from timm_backbones_ext.transport import PATIENCE, Repo

REPO = "pull/backbone"
MUTATIONS = int(os.environ.get("MUTATIONS", "120"))  # benchmarks/reliability.py runs 1,000 of each


@pytest.fixture(scope="module")
def saved(local_hub: FaultyHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = testing.calibrate(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3)).eval()
    folder = tbx.save(model, tmp_path_factory.mktemp("saved"))
    tbx.push_to_hub(folder, REPO)
    return folder


@pytest.fixture(autouse=True)
def _no_faults(local_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(PATIENCE, "first_wait", 0.01)
    yield
    local_hub.faults()


def requests(hub: FaultyHub) -> list[str]:
    return [f"{method} {path}" for method, path, *_ in hub.faults()]


def test_a_cold_pull_takes_at_most_six_requests_and_a_locked_warm_one_none(
    saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    local_hub.faults()
    folder = tbx.pull(REPO, cache_dir=tmp_path)
    assert len(asked := requests(local_hub)) <= 6, asked
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "fingerprint.safetensors",
        "model.safetensors",
    ]
    assert tbx.pull(REPO, folder.name, cache_dir=tmp_path) == folder
    assert requests(local_hub) == []


def test_the_config_is_checked_before_weights_are_fetched(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    tbx.push_to_hub(saved, "pull/later")
    content = json.dumps({**config, "architecture": "ext_later"}).encode()
    HfApi().upload_file(path_or_fileobj=content, path_in_repo="config.json", repo_id="pull/later")
    local_hub.faults()
    with pytest.raises(tbx.HubError, match="unknown architecture 'ext_later'"):
        tbx.pull("pull/later", cache_dir=tmp_path)
    assert not [path for path in requests(local_hub) if "safetensors" in path or "storage" in path]


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}, {"num_classes": 7}])
def test_create_model_checks_what_it_loads(kwargs: dict, saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    local_hub.faults({"kind": "flip", "where": "/storage/", "at": 5_000_000})
    model = timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path, **kwargs)
    full = model.full_model() if kwargs.get("features_only") else model
    expected = load_file(saved / "model.safetensors")
    state = full.state_dict()
    assert all(state[key].equal(expected[key]) for key in state if not key.startswith("head.fc"))
    local_hub.faults({"kind": "flip", "where": "/storage/", "at": 5_000_000, "times": -1})
    with pytest.raises(tbx.HubError, match="arrived damaged twice"):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path / "other", **kwargs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 10**12}, "no backbone has so many of anything"),
        ({"model_args": {"depths": [9000] * 4}}, "no backbone has so many of anything"),
        ({"num_classes": "three"}, "num_classes 'three'; expected 0 or more"),
        ({"num_classes": -1}, "num_classes -1; expected 0 or more"),
        ({"label_names": ["a"]}, "1 label names; expected 3, one per class"),
        ({"model_args": {"shell": "rm -rf"}}, r"config.json does not fit any model .*shell"),
        ({"model_args": {"edits": ["__import__('os')"]}}, "no edit '__import__'"),
    ],
    ids=str,
)
def test_create_model_checks_the_config_before_weights_are_fetched(
    changes: dict, said: str, saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    repo = f"pull/config-{abs(hash(str(changes))):x}"
    config = json.dumps({**json.loads((saved / "config.json").read_text()), **changes})
    HfApi().create_repo(repo)
    for name, content in {"config.json": config.encode(), "model.safetensors": saved / "model.safetensors"}.items():
        HfApi().upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo)
    local_hub.faults()
    with pytest.raises((tbx.HubError, ValueError), match=said):
        timm.create_model(f"hf-hub:{repo}", pretrained=True, cache_dir=tmp_path)
    with pytest.raises(tbx.HubError, match=said):
        tbx.pull(repo, cache_dir=tmp_path)
    assert not [path for path in requests(local_hub) if "safetensors" in path or "storage" in path]


def test_a_fingerprint_that_is_none_is_an_error_of_the_repo(saved: Path, tmp_path: Path) -> None:
    repo = "pull/no-fingerprint"
    tbx.push_to_hub(saved, repo)
    for content in (b"no fingerprint", (saved / "model.safetensors").read_bytes()):
        HfApi().upload_file(path_or_fileobj=content, path_in_repo="fingerprint.safetensors", repo_id=repo)
        with pytest.raises(tbx.HubError, match=r"is no fingerprint|expected fingerprint format"):
            tbx.pull(repo, cache_dir=tmp_path)


def test_the_last_error_says_what_was_tried_and_what_has_arrived(
    saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    local_hub.faults(
        {"kind": "cut", "where": "/storage/", "at": 5_000_000},
        {"kind": "status", "where": "/storage/", "status": 503, "times": -1},
    )
    said = r"answered 503: .*\(tried 6 times to get model.safetensors; 4,194,304 of [\d,]+ bytes are here, and the next"
    with pytest.raises(tbx.HubError, match=said):
        tbx.pull(REPO, cache_dir=tmp_path)
    local_hub.faults()
    tbx.pull(REPO, cache_dir=tmp_path, check=False)
    assert next(seen[2] for seen in local_hub.faults() if "/storage/" in seen[1]) == "bytes=4194304-"


def test_create_model_reads_no_pickle_when_safetensors_fail(saved: Path, local_hub: FaultyHub, tmp_path: Path) -> None:
    HfApi().upload_file(path_or_fileobj=b"cos\nsystem\n", path_in_repo="pytorch_model.bin", repo_id=REPO)
    local_hub.faults({"kind": "status", "where": "/resolve/", "method": "GET", "status": 503, "times": -1})
    with pytest.raises((tbx.HubError, OSError)):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path)
    assert not [path for path in requests(local_hub) if "pytorch_model" in path]
    HfApi().delete_file("pytorch_model.bin", REPO)


def test_weights_come_from_the_commit_that_the_config_came_from(saved: Path, tmp_path: Path) -> None:
    """Somebody pushes between the two requests of create_model."""
    repo = "pull/moving"
    tbx.push_to_hub(saved, repo)
    timm.create_model(f"hf-hub:{repo}", cache_dir=tmp_path)  # reads the config alone
    read = try_to_load_from_cache(repo, "config.json", cache_dir=tmp_path)
    tbx.push_to_hub(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3), repo)
    from timm_backbones_ext.weights.source import from_hub

    cfg = {"hf_hub_id": repo, "source": "hf-hub"}
    file = from_hub("ext_convnext_atto", cfg, {}, tmp_path)
    assert file.parent == Path(str(read)).parent
    assert file.read_bytes() == (saved / "model.safetensors").read_bytes()


def test_a_config_that_was_damaged_in_the_cache_is_repaired_and_said(saved: Path, tmp_path: Path) -> None:
    folder = tbx.pull(REPO, cache_dir=tmp_path)
    blob = (folder / "config.json").resolve()
    blob.write_text(blob.read_text().replace('"num_classes": 3', '"num_classes": 7'))
    with pytest.raises(tbx.HubError, match="was damaged in the cache; it is whole again"):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path)
    assert timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path).num_classes == 3


def test_weights_of_a_base_are_checked_as_well(local_hub: FaultyHub, tmp_path: Path) -> None:
    base = timm.create_model("convnext_atto.d2_in1k")
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(base.state_dict(), folder / "model.safetensors")
    api = HfApi()
    api.create_repo("timm/convnext_atto.d2_in1k")
    api.upload_folder(folder_path=folder, repo_id="timm/convnext_atto.d2_in1k")
    local_hub.faults({"kind": "flip", "where": "/storage/", "at": 1_000_000})
    model = timm.create_model("ext_convnext_atto.d2_in1k", pretrained=True, edits="eca", cache_dir=tmp_path / "cache")
    assert model.stem[0].weight.equal(base.stem[0].weight)
    assert len([path for path in requests(local_hub) if "/storage/" in path]) == 2


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_mutations_of_a_config_and_of_a_header_end_well(name: str, saved: Path) -> None:
    kinds = mutations(saved, name, MUTATIONS)
    assert kinds.total() == MUTATIONS
    assert kinds[RIGHT] < 0.9 * MUTATIONS
    assert kinds[{"config.json": "refused: no JSON", "model.safetensors": "refused: damaged"}[name]] > 0.1 * MUTATIONS


def test_a_lock_names_commit_and_hashes_and_nothing_else_is_taken(
    saved: Path, local_hub: FaultyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repo, run = "pull/locked", CliRunner().invoke
    first = tbx.push_to_hub(saved, repo).oid
    said = run(main, ["lock", "add", repo])
    assert said.exit_code == 0, said.output
    text = Path("backbones.lock").read_text()
    assert f'commit = "{first}"' in text
    assert '"model.safetensors" = "' in text
    second = tbx.push_to_hub(timm.create_model("ext_convnext_atto", edits="eca", num_classes=3), repo).oid
    assert tbx.pull(repo, lock="backbones.lock").name == first
    assert tbx.pull(repo).name == second
    assert run(main, ["lock", "check"]).exit_code == 0
    local_hub.faults()
    tbx.pull(repo, lock="backbones.lock", check=False)
    assert requests(local_hub) == []
    said = run(main, ["lock", "update", repo])
    assert said.exit_code == 0, said.output
    assert tbx.pull(repo, lock="backbones.lock").name == second
    Path("backbones.lock").write_text(text.replace(first, second))  # the lock says one thing, the Hub another
    with pytest.raises(tbx.HubError, match=r"config.json has sha256 \w+; locked is|model.safetensors has sha256"):
        tbx.pull(repo, lock="backbones.lock")
    with pytest.raises(ValueError, match=r"locks pull/locked at main .*asked for v9"):
        tbx.pull(repo, "v9", lock="backbones.lock")
    with pytest.raises(ValueError, match=r"does not lock 'pull/other'.*timm-ext lock add pull/other"):
        tbx.pull("pull/other", lock="backbones.lock")
    with pytest.raises(FileNotFoundError, match="`timm-ext lock add OWNER/NAME` makes one"):
        tbx.pull(repo, lock="none.lock")
    Path("backbones.lock").write_text("[[backbone]]\nrepo = 1")
    with pytest.raises(ValueError, match="is no lock file that this version reads"):
        tbx.pull(repo, lock="backbones.lock")


def test_offline_a_pinned_revision_comes_from_the_cache(saved: Path, tmp_path: Path) -> None:
    folder = tbx.pull(REPO, cache_dir=tmp_path)
    script = f"""
import timm, timm_backbones_ext as tbx
print(tbx.pull("{REPO}", "{folder.name}", cache_dir={str(tmp_path)!r}))
print(timm.create_model("hf-hub:{REPO}@{folder.name}", pretrained=True, cache_dir={str(tmp_path)!r}).num_classes)
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(folder), "3"]


def test_a_mirror_holds_the_same_commit_for_networks_without_the_hub(saved: Path, tmp_path: Path) -> None:
    done = mirror(REPO, tmp_path / "mirror")
    commit = done.commit
    assert (done.files, done.kept) == (4, None)
    assert commit == HfApi().repo_info(REPO).sha
    assert mirror(REPO, tmp_path / "mirror") == done
    with LocalHub(tmp_path / "mirror") as other:
        api = HfApi(endpoint=other.endpoint)
        assert api.repo_info(REPO).sha == api.repo_info(REPO, revision=commit).sha == commit
        copy = api.hf_hub_download(REPO, "model.safetensors", revision=commit, cache_dir=tmp_path / "cache")
        assert Path(copy).read_bytes() == (saved / "model.safetensors").read_bytes()
    said = CliRunner().invoke(main, ["hub", "fsck", str(tmp_path / "mirror")])
    assert (said.exit_code, said.output) == (0, "no damage\n")


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
