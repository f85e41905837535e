"""Pushes: what is refused before anything is sent, what a commit holds, and what it leaves alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from faulty import FaultyHub
from huggingface_hub import HfApi, ModelCard
from pushing import head, make
from safetensors.torch import load_file
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli.main import main

pytestmark = pytest.mark.usefixtures("local_hub")


def test_the_command_shows_a_plan_and_pushes(repo: str, tmp_path: Path) -> None:
    tbx.save(make(), tmp_path / "saved")
    said = CliRunner().invoke(main, ["push", str(tmp_path / "saved"), repo, "--dry-run"], catch_exceptions=False)
    assert said.exit_code == 0
    assert "model.safetensors" in said.output
    assert "nothing was sent" in said.output
    assert not HfApi().repo_exists(repo)
    said = CliRunner().invoke(main, ["push", str(tmp_path / "saved"), repo, "--tag", "v1", "--verify", "full"])
    assert said.exit_code == 0, said.output
    assert tbx.verify(repo, revision="v1").same


def test_a_commit_of_others_in_between_is_not_overwritten(repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tbx.push_to_hub(make(), repo)
    create = HfApi.create_commit

    def late(api: HfApi, *args: object, **kwargs: object) -> object:
        monkeypatch.setattr(HfApi, "create_commit", create)
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo="notes.txt", repo_id=repo)
        return create(api, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(tbx.HubError, match="has got another commit since the push began; nothing was changed"):
        tbx.push_to_hub(make(num_classes=9), repo)
    assert len(load_file(HfApi().hf_hub_download(repo, "model.safetensors"))["head.fc.bias"]) == 3


@pytest.mark.parametrize("kwargs", [{}, {"create_pr": True}, {"revision": "dev"}])
def test_an_answer_that_was_lost_is_recognised_and_not_committed_twice(
    repo: str, kwargs: dict, local_hub: FaultyHub
) -> None:
    tbx.push_to_hub(make(), repo)
    before = len(HfApi().list_repo_commits(repo))
    local_hub.faults({"kind": "lost", "where": "/commit/", "method": "POST"})
    commit = tbx.push_to_hub(make(num_classes=4), repo, **kwargs)
    revision = "refs/pr/1" if "create_pr" in kwargs else kwargs.get("revision")
    assert HfApi().repo_info(repo, revision=revision).sha == commit.oid
    assert len(HfApi().list_repo_commits(repo, revision=revision)) == before + 1
    if "create_pr" in kwargs:
        assert commit.pr_revision == "refs/pr/1"


@pytest.mark.parametrize("where", ["/api/repos/create", "/preupload/", "/storage/", "/commit/", "/api/models/"])
def test_a_push_waits_for_a_server_that_is_not_well(repo: str, where: str, local_hub: FaultyHub) -> None:
    local_hub.faults({"kind": "status", "where": where, "status": 503, "times": 2})
    tbx.push_to_hub(make(), repo)
    assert tbx.verify(repo).same


def test_a_push_that_fails_leaves_the_old_revision(repo: str, local_hub: FaultyHub) -> None:
    tbx.push_to_hub(make(), repo)
    before = head(repo)
    local_hub.faults({"kind": "status", "where": "/commit/", "status": 500, "times": -1})
    with pytest.raises(tbx.HubError, match=r"the Hub answered 500.*tried 6 times"):
        tbx.push_to_hub(make(num_classes=4), repo)
    local_hub.faults()
    assert head(repo) == before
    assert tbx.verify(repo).same


def test_content_that_the_hub_does_not_hold_afterwards_is_noticed(repo: str, local_hub: FaultyHub) -> None:
    local_hub.faults({"kind": "rename", "where": "/revision/", "from": "config.json", "to": "config.jsom", "times": -1})
    with pytest.raises(tbx.HubError, match=r"does not hold what was sent: config.json"):
        tbx.push_to_hub(make(), repo)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_sent_as_they_are(dtype: torch.dtype, repo: str) -> None:
    model = make().to(dtype)
    tbx.push_to_hub(model, repo)
    weights = load_file(tbx.pull(repo) / "model.safetensors")
    assert all(weights[key].equal(value) for key, value in model.state_dict().items())
    assert tbx.verify(repo).same


def test_tied_and_channels_last_tensors_are_sent(repo: str) -> None:
    model = make().to(memory_format=torch.channels_last)
    model.stages[1].blocks[1].mlp.fc1.weight = model.stages[1].blocks[0].mlp.fc1.weight
    tbx.push_to_hub(model, repo)
    again = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
    x = testing.image(again, 64, 64)
    assert torch.equal(again(x), model.to(memory_format=torch.contiguous_format)(x))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrapped_models_are_sent_as_what_is_inside(wrap: object, repo: str) -> None:
    model = make()
    tbx.push_to_hub(wrap(model), repo)
    assert tbx.compare(model, timm.create_model(f"hf-hub:{repo}", pretrained=True)).same


def test_a_model_in_ddp_is_sent_as_what_is_inside(repo: str, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = make()
        tbx.push_to_hub(nn.parallel.DistributedDataParallel(model), repo)
    finally:
        torch.distributed.destroy_process_group()
    assert tbx.compare(model, timm.create_model(f"hf-hub:{repo}", pretrained=True)).same


@pytest.mark.slow
def test_plain_timm_loads_what_was_pushed_as_timm(repo: str, local_hub: FaultyHub) -> None:
    model = make("ext_test_resnet", edits="rep")
    with pytest.raises(ValueError, match=r"this model has rep; tbx.merge\(model\) removes rep"):
        tbx.push_to_hub(model, repo, as_timm=True)
    x = testing.image(model, 64, 64)
    expected = model(x)
    tbx.push_to_hub(tbx.merge(model), repo, as_timm=True)
    script = f"""
import sys, timm, torch
assert not timm.list_models("ext_*")
model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
print(type(model).__module__, model.pretrained_cfg["architecture"])
torch.save(model(torch.load(sys.argv[1])), sys.argv[2])
"""
    scratch = Path(local_hub.scratch.name)
    torch.save(x, scratch / "x.pt")
    env = {**os.environ, "TIMM_BACKBONES_EXT_AUTOLOAD": "0"}
    command = [sys.executable, "-c", script, scratch / "x.pt", scratch / "y.pt"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["timm.models.resnet", "test_resnet"]
    assert (torch.load(scratch / "y.pt") - expected).abs().max() < 1e-4
    assert "timm-backbones-ext\n" not in ModelCard.load(HfApi().hf_hub_download(repo, "README.md")).text


def _sharded(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=folder.rpartition("-")[2], RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo")
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = make(edits="eca")
    for stage in model.stages:
        fully_shard(stage)
    tbx.save(fully_shard(model), folder)
    tbx.save(model, f"{folder}-delta", delta=True, base="me/sharded-base")
    if rank == 0:
        with pytest.raises(ValueError, match="the model is sharded"):
            tbx.push_to_hub(model, "me/never")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_model_sharded_over_ranks_is_saved_whole(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / f"sharded-{port}"
    torch.manual_seed(0)
    tbx.push_to_hub(make(), "me/sharded-base", as_timm=True)
    torch.multiprocessing.spawn(_sharded, (str(folder),), nprocs=2)
    torch.manual_seed(0)
    model = make(edits="eca")
    for saved in (folder, f"{folder}-delta"):
        assert tbx.compare(model, timm.create_model(f"local-dir:{saved}", pretrained=True)).same
