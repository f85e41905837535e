"""Pushes: what is refused before anything is sent, what a commit holds, and what it leaves alone."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from faulty import FaultyHub
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext._digest import git_blob_id, sha256_of
from timm_backbones_ext.catalog.description import describe
from timm_backbones_ext.cli import main
from timm_backbones_ext.local_hub import LocalHub
from timm_backbones_ext.local_hub.store import Draft, File
from timm_backbones_ext.transport import PATIENCE

pytestmark = pytest.mark.usefixtures("local_hub")


def make(name: str = "ext_convnext_atto", **kwargs: object) -> nn.Module:
    return testing.calibrate(timm.create_model(name, **{"num_classes": 3, **kwargs})).eval()


@pytest.fixture(autouse=True)
def _no_faults(local_hub: FaultyHub) -> Iterator[None]:
    yield
    local_hub.faults()


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    return f"push/{abs(hash(request.node.nodeid)):x}"


def head(repo: str) -> str:
    return str(HfApi().repo_info(repo).sha)


def test_a_plan_sends_nothing_and_says_what_would_change(repo: str) -> None:
    model = make()
    plan = tbx.plan_push(model, repo)
    assert plan.parent is None
    assert {change.status for change in plan.changes} == {"new"}
    assert not HfApi().repo_exists(repo)
    tbx.push_to_hub(model, repo)
    assert tbx.plan_push(model, repo).unchanged
    wider = make(num_classes=5)
    before, plan = head(repo), tbx.plan_push(wider, repo)
    assert {change.name: change.status for change in plan.changes}["model.safetensors"] == "changed"
    assert "config.num_classes: 3 -> 5" in plan.details
    assert "weights: head.fc.weight (3, 320) -> (5, 320)" in plan.details
    assert any(line.startswith("card: - ") and "3 classes" in line for line in plan.details)
    assert head(repo) == before


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


def test_a_tag_that_is_taken_is_refused_before_anything_is_sent(repo: str) -> None:
    model = make()
    tbx.push_to_hub(model, repo, tag="v1")
    before = head(repo)
    with pytest.raises(tbx.HubError, match="has a tag 'v1' already"):
        tbx.push_to_hub(make(num_classes=4), repo, tag="v1")
    assert head(repo) == before


def test_a_gated_repo_asks_for_access(repo: str, local_hub: FaultyHub) -> None:
    local_hub.faults({"kind": "taken", "where": "/settings"})
    tbx.push_to_hub(make(), repo, gated="manual")
    settings = [seen for seen in local_hub.faults() if seen[1].endswith(f"{repo}/settings")]
    assert [(seen[0], json.loads(seen[-1])) for seen in settings] == [("PUT", {"gated": "manual"})]
    local_hub.faults({"kind": "gated", "where": "/resolve/", "times": -1})
    with pytest.raises(tbx.HubError, match="is gated"):
        tbx.pull(repo, token=False)


def test_another_architecture_is_refused_unless_forced(repo: str) -> None:
    tbx.push_to_hub(make(), repo)
    before = head(repo)
    with pytest.raises(tbx.HubError, match="holds a convnext_atto, and this is a resnet18"):
        tbx.push_to_hub(make("ext_resnet18"), repo)
    assert head(repo) == before
    tbx.push_to_hub(make("ext_resnet18"), repo, force=True)
    assert tbx.verify(repo).same
    tbx.push_to_hub(
        make("ext_resnet18", edits="eca"), repo
    )  # another variant of the same base is no other architecture


def test_old_pickles_are_named_and_deleted_on_request(repo: str) -> None:
    model = make()
    tbx.push_to_hub(model, repo)
    HfApi().upload_file(path_or_fileobj=b"old", path_in_repo="pytorch_model.bin", repo_id=repo)
    assert tbx.plan_push(model, repo).pickles == ("pytorch_model.bin",)
    tbx.push_to_hub(model, repo)
    assert HfApi().file_exists(repo, "pytorch_model.bin")
    tbx.push_to_hub(model, repo, delete_pickles=True)
    assert not HfApi().file_exists(repo, "pytorch_model.bin")


def test_sections_and_metadata_of_the_user_survive_the_next_push(repo: str) -> None:
    tbx.push_to_hub(make(), repo)
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    card.data.language = "en"
    card.text = "# My words\n\nBefore.\n" + card.text + "\n## Training\n\nOn four cards.\n"
    HfApi().upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=repo)
    for _ in range(2):
        tbx.push_to_hub(make(num_classes=7), repo)
    again = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    assert again.data.language == "en"
    assert again.text.count("# My words\n\nBefore.") == again.text.count("## Training\n\nOn four cards.") == 1
    assert "7 classes" in again.text
    assert "3 classes" not in again.text


def test_a_card_of_another_hand_stays_below_ours(repo: str) -> None:
    HfApi().create_repo(repo)
    HfApi().upload_file(path_or_fileobj=b"---\nlanguage: en\n---\n# Mine\n", path_in_repo="README.md", repo_id=repo)
    tbx.push_to_hub(make(), repo)
    text = ModelCard.load(HfApi().hf_hub_download(repo, "README.md")).text
    assert text.index("## Usage") < text.index("# Mine")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_card_says_what_the_model_is_and_its_examples_run(
    repo: str, local_hub: FaultyHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local_hub.faults()
    tbx.push_to_hub(make(edits="eca"), repo)
    asked = [path for _, path, *_ in local_hub.faults()]
    assert asked.index("/api/validate-yaml") < asked.index(f"/api/models/{repo}/commit/main")
    text = ModelCard.load(HfApi().hf_hub_download(repo, "README.md")).text
    (evidence,) = {edit.evidence for edit in tbx.parse_edits("eca")}
    facts = describe("ext_convnext_atto", edits="eca", num_classes=3)
    for line in (
        f"| `eca` | eval+train | {evidence} |",
        *(f"| {level.index} | {level.channels} | {level.stride} |" for level in facts.levels),
        f"{facts.params / 1e6:.2f}M parameters, {facts.gmacs:.2f} GMACs at {'x'.join(map(str, facts.input_size))}",
        *(f"| {path.name} | `{sha256_of(path)}` |" for path in tbx.pull(repo).iterdir() if path.name != "README.md"),
        "pip install timm-backbones-ext",
        "Nothing has to be imported",
    ):
        assert line in text
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["scores"].shape == (1, 3)
    assert len(names["levels"]) == len(facts.levels)
    assert Path("model.onnx").is_file()


@pytest.mark.parametrize("old", ["---\nlanguage: [\n---\n# Mine\n", "---\n- a\n---\n# Mine\n"])
def test_a_card_whose_metadata_cannot_be_read_is_left_alone(repo: str, old: str, local_hub: LocalHub) -> None:
    HfApi().create_repo(repo)
    store = local_hub.store  # the Hub refuses such a card, and may hold it from elsewhere
    card = File("README.md", store.blobs.put(old.encode()), len(old), git_blob_id(old.encode()), lfs=False)
    store.commit(repo, "heads/main", Draft("theirs", "", "me", {card.path: card}))
    with pytest.raises(ValueError, match=r"metadata that cannot be read .* mend it there first"):
        tbx.push_to_hub(make(), repo)
    assert HfApi().list_repo_files(repo) == ["README.md"]


def test_results_become_the_model_index(repo: str) -> None:
    tbx.push_to_hub(make(), repo, card={"datasets": ["digits"]}, metrics={"accuracy": 0.97})
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    (result,) = card.data.eval_results
    assert card.data.pipeline_tag == "image-classification"
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("digits", "accuracy", 0.97)
    assert card.data.base_model_relation == "finetune"
    with pytest.raises(ValueError, match="metrics need the data set"):
        tbx.push_to_hub(make(), repo, metrics={"accuracy": 0.97})


def test_a_licence_that_the_base_forbids_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("ext_convnextv2_tiny")
    assert model.pretrained_cfg["license"].startswith("cc-by-nc")
    with pytest.raises(ValueError, match=r"cc-by-nc-4.0, which does not allow 'mit'"):
        tbx.save(model, tmp_path / "a", card={"license": "mit"})
    tbx.save(model, tmp_path / "b", card={"license": "mit", "base_model": None})
    assert ModelCard.load(tmp_path / "b" / "README.md").data.license == "mit"
    tbx.save(model, tmp_path / "c")
    assert ModelCard.load(tmp_path / "c" / "README.md").data.license == "cc-by-nc-4.0"


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
def test_a_push_waits_for_a_server_that_is_not_well(
    repo: str, where: str, local_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PATIENCE, "first_wait", 0.01)
    local_hub.faults({"kind": "status", "where": where, "status": 503, "times": 2})
    tbx.push_to_hub(make(), repo)
    assert tbx.verify(repo).same


def test_a_push_that_fails_leaves_the_old_revision(
    repo: str, local_hub: FaultyHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    tbx.push_to_hub(make(), repo)
    before = head(repo)
    monkeypatch.setattr(PATIENCE, "first_wait", 0.01)
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
    model.stages[0].blocks[1].mlp.fc1.weight = model.stages[0].blocks[0].mlp.fc1.weight
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


def test_infinite_weights_are_named_before_any_request(repo: str, local_hub: FaultyHub) -> None:
    model = make()
    model.head.fc.bias.data[1] = float("inf")
    local_hub.faults()
    with pytest.raises(tbx.HubError, match=r"nothing was sent: 1 tensors have NaN or Inf, such as head.fc.bias"):
        tbx.push_to_hub(model, repo)
    assert local_hub.faults() == []


def test_labels_of_another_number_than_classes_are_not_sent(repo: str, local_hub: FaultyHub, tmp_path: Path) -> None:
    folder = tbx.save(make(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "label_names": ["cat", "dog"]}))
    local_hub.faults()
    with pytest.raises(tbx.HubError, match=r"nothing was sent: config.json has 2 label names; expected 3"):
        tbx.push_to_hub(folder, repo)
    with pytest.raises(ValueError, match="expected 3 label names, one per class; got 2"):
        tbx.push_to_hub(make(), repo, label_names=["cat", "dog"])
    assert local_hub.faults() == []


def test_a_model_that_is_not_what_its_config_says_is_not_sent(repo: str) -> None:
    model = make()
    model.stages[0].blocks[0].mlp.act = nn.ReLU()
    with pytest.raises(tbx.HubError, match=r"nothing was sent: the saved files do not make the same model.*blocks.0"):
        tbx.push_to_hub(model, repo)
    assert not HfApi().repo_exists(repo)


def test_plain_timm_loads_what_was_pushed_as_timm(repo: str, local_hub: FaultyHub) -> None:
    model = make("ext_resnet18", edits="rep")
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
    assert done.stdout.split() == ["timm.models.resnet", "resnet18"]
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
    if rank == 0:
        with pytest.raises(ValueError, match="the model is sharded"):
            tbx.push_to_hub(model, "me/never")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_model_sharded_over_ranks_is_saved_whole(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path / f"sharded-{port}"
    torch.multiprocessing.spawn(_sharded, (str(folder),), nprocs=2)
    torch.manual_seed(0)
    assert tbx.compare(make(edits="eca"), timm.create_model(f"local-dir:{folder}", pretrained=True)).same
