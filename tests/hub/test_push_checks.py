"""What is checked before a push sends anything, and what a plan of it says."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from faulty import FaultyHub
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from pushing import head, make
from safetensors.torch import load_file, save_file
from scripted import Answer, scripted
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext._digest import sha256_of

pytestmark = pytest.mark.usefixtures("local_hub")


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
    assert "weights: head.fc.weight (3, 64) -> (5, 64)" in plan.details
    assert any(line.startswith("card: - ") and "3 classes" in line for line in plan.details)
    assert head(repo) == before


def test_a_tag_that_is_taken_is_refused_before_anything_is_sent(repo: str) -> None:
    model = make()
    tbx.push_to_hub(model, repo, tag="v1")
    before = head(repo)
    with pytest.raises(tbx.HubError, match="has a tag 'v1' already"):
        tbx.push_to_hub(make(num_classes=4), repo, tag="v1")
    assert head(repo) == before


def test_another_architecture_is_refused_unless_forced(repo: str) -> None:
    tbx.push_to_hub(make(), repo)
    before = head(repo)
    with pytest.raises(tbx.HubError, match="holds a test_convnext, and this is a test_resnet"):
        tbx.push_to_hub(make("ext_test_resnet"), repo)
    assert head(repo) == before
    tbx.push_to_hub(make("ext_test_resnet"), repo, force=True)
    assert tbx.verify(repo).same
    tbx.push_to_hub(
        make("ext_test_resnet", edits="eca"), repo
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


def test_a_plan_takes_the_arguments_of_a_push_and_no_others() -> None:
    plan, push = (inspect.signature(call) for call in (tbx.plan_push, tbx.push_to_hub))
    assert list(plan.parameters.values()) == list(push.parameters.values())
    with pytest.raises(TypeError, match="nonsense"):
        tbx.plan_push(make(), "me/never", nonsense=1)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["model", "folder"])
def test_a_plan_makes_the_checks_of_a_push(source: str, repo: str, tmp_path: Path) -> None:
    model = make()
    given = model if source == "model" else tbx.save(model, tmp_path / "saved")
    tbx.push_to_hub(model, repo, tag="v1")
    before = head(repo)
    wrong = {
        "has a tag 'v1' already": {"tag": "v1"},
        "'a b' is not a valid tag": {"tag": "a b"},
        "expected 3 label names": {"label_names": ["a"]},
        "metrics need the data set": {"metrics": {"accuracy": 1.0}},
        "no private key": {"sign": tmp_path / "none.pem"},
        "gated: expected 'auto' or 'manual'; got 'yes'": {"gated": "yes"},
        "verify: expected 'hashes' or 'full'; got 'yes'": {"verify": "yes"},
    }
    for call in (tbx.plan_push, tbx.push_to_hub):
        for said, kwargs in wrong.items():
            with pytest.raises((tbx.HubError, ValueError, FileNotFoundError), match=said):
                call(given, repo, **kwargs)
    assert head(repo) == before
    assert tbx.plan_push(given, repo, private=True, tag="v2", create_pr=True, delete_pickles=True).unchanged


def test_the_dry_run_of_the_command_checks_the_tag(repo: str, tmp_path: Path) -> None:
    folder = tbx.save(make(), tmp_path / "saved")
    tbx.push_to_hub(folder, repo, tag="v1")
    with pytest.raises(tbx.HubError, match="has a tag 'v1' already"):
        tbx.plan_push(folder, repo, tag="v1")


def test_a_folder_is_pushed_with_the_labels_fields_and_results_that_are_asked_for(repo: str, tmp_path: Path) -> None:
    model = make()
    folder = tbx.save(
        model, tmp_path / "saved", card={"license": "mit", "datasets": ["old"]}, section="## Mine\n\nKept."
    )
    text = (folder / "README.md").read_text().replace("# convnext", "# convnext") + "\n## Training\n\nOn four cards.\n"
    (folder / "README.md").write_text(text)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = {"label_names": ["a", "b", "c"], "card": {"language": "en"}, "metrics": {"accuracy": 0.75}}
    tbx.push_to_hub(folder, repo, **made)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the folder is the user's own"
    pulled = tbx.pull(repo)
    assert json.loads((pulled / "config.json").read_text())["label_names"] == ["a", "b", "c"]
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    assert (card.data.license, card.data.datasets, card.data.language) == ("mit", ["old"], "en")
    assert [(item.metric_type, item.metric_value) for item in card.data.eval_results] == [("accuracy", 0.75)]
    for line in ("| accuracy | 0.75 |", "## Mine\n\nKept.", "## Training\n\nOn four cards."):
        assert card.text.count(line) == 1
    assert sha256_of(pulled / "config.json") in card.text
    assert tbx.verify(repo).same
    tbx.push_to_hub(folder, repo, card={"license": "apache-2.0"}, metrics={"accuracy": 0.5})
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    assert card.data.license == "apache-2.0"
    assert card.text.count("On four cards.") == 1


def test_a_folder_is_pushed_as_plain_timm_or_refused(repo: str, tmp_path: Path) -> None:
    folder = tbx.save(make(), tmp_path / "saved", label_names=["a", "b", "c"])
    tbx.push_to_hub(folder, repo, as_timm=True)
    config = json.loads((tbx.pull(repo) / "config.json").read_text())
    assert (config["architecture"], config["label_names"]) == ("test_convnext", ["a", "b", "c"])
    edited = tbx.save(make(edits="eca"), tmp_path / "edited")
    for call in (tbx.plan_push, tbx.push_to_hub):
        with pytest.raises(ValueError, match="plain timm has no edits, and this model has eca"):
            call(edited, repo, as_timm=True)


def test_outputs_that_are_not_bit_equal_are_not_sent(repo: str) -> None:
    """A module that the config knows nothing of, and too little for the fingerprint."""
    model = make("ext_test_resnet")
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps *= 1.01
    with pytest.raises(tbx.HubError, match=r"nothing was sent: .* does not give bit-equal outputs"):
        tbx.push_to_hub(model, repo)
    assert not HfApi().repo_exists(repo)


def test_a_folder_of_the_same_function_with_other_dtypes_is_not_sent(repo: str, tmp_path: Path) -> None:
    folder = tbx.save(make(), tmp_path / "saved")
    weights = {key: value.double() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(tbx.HubError, match=r"do not make the same model: .*keys, shapes or dtypes differ"):
        tbx.push_to_hub(folder, repo)


@pytest.mark.parametrize("name", ["fingerprint.safetensors", "config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_not_sent(name: str, repo: str, tmp_path: Path, local_hub: FaultyHub) -> None:
    folder = tbx.save(make(), tmp_path / "saved")
    (folder / name).unlink()
    local_hub.faults()
    with pytest.raises(tbx.HubError, match=rf"nothing was sent: .* has no {name}; tbx.save writes what is needed"):
        tbx.push_to_hub(folder, repo)
    assert local_hub.faults() == []


def test_every_kind_of_old_pickle_is_named(repo: str) -> None:
    model = make()
    tbx.push_to_hub(model, repo)
    old = ["a.pt", "b.ckpt", "c.pth", "d.pkl", "e.pickle", "pytorch_model.bin"]
    operations = [CommitOperationAdd(name, b"old") for name in old]
    HfApi().create_commit(repo, operations, commit_message="old")
    assert tbx.plan_push(model, repo).pickles == tuple(old)
    tbx.push_to_hub(model, repo, delete_pickles=True)
    assert not set(old) & set(HfApi().list_repo_files(repo))


def test_content_of_the_same_size_is_a_change(repo: str) -> None:
    model = make()
    tbx.push_to_hub(model, repo)
    with torch.no_grad():
        model.head.fc.bias.add_(1)
    plan = tbx.plan_push(model, repo)
    statuses = {change.name: change.status for change in plan.changes}
    assert statuses["model.safetensors"] == "changed"
    assert statuses["config.json"] == "unchanged"
    assert not plan.unchanged


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"commitOid": 5}', b"null"])
def test_a_malformed_answer_to_a_commit_is_no_second_commit(repo: str, body: bytes, local_hub: FaultyHub) -> None:
    tbx.push_to_hub(make(), repo)
    count = len(HfApi().list_repo_commits(repo))
    with scripted(local_hub.endpoint) as server:
        server.answers.append(Answer("/commit/main", change=lambda _: body, times=1))
        commit = tbx.push_to_hub(make(num_classes=4), repo)
    assert len(HfApi().list_repo_commits(repo)) == count + 1
    assert head(repo) == commit.oid


@pytest.mark.parametrize("where", ["/api/models/[^/]+/[^/]+$", "/refs", "/preupload/", "/api/repos/create"])
@pytest.mark.parametrize("body", [b"<html>", b"5", b'{"siblings": 5}'])
def test_a_malformed_answer_to_a_push_ends_in_a_hub_error(
    repo: str, where: str, body: bytes, local_hub: FaultyHub
) -> None:
    model = make()
    tbx.push_to_hub(model, repo)
    with scripted(local_hub.endpoint) as server:
        server.answers.append(Answer(where, body=body))
        with pytest.raises(tbx.HubError):
            tbx.push_to_hub(make(num_classes=4), repo, tag="v1")


def test_a_gated_repo_asks_for_access(repo: str, local_hub: FaultyHub, tmp_path: Path) -> None:
    with scripted(local_hub.endpoint) as server:
        server.answers.append(Answer(f"/api/models/{repo}/settings", method="PUT", body=b"{}"))
        tbx.push_to_hub(make(), repo, gated="manual")
        asked = [json.loads(body) for _, path, _, body in server.seen if path.endswith("/settings")]
        assert asked == [{"gated": "manual"}]
        server.answers = [Answer("/resolve/", 403, headers={"X-Error-Code": "GatedRepo"})]
        with pytest.raises(tbx.HubError, match="is gated: ask for access on its page"):
            tbx.pull(repo, token=False, cache_dir=tmp_path)
