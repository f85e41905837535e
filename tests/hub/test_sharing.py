"""Push and pull over real HTTP, with the real client, against a local Hub."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import load_file, save

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.local_hub import LocalHub

pytestmark = pytest.mark.usefixtures("local_hub")


@pytest.fixture
def model() -> torch.nn.Module:
    made = timm.create_model("ext_test_resnet", edits="dcn(stages=[4])", num_classes=7)
    return testing.calibrate(made).eval()


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"me/{name.replace('--', '-').strip('-')[:80]}"


def test_what_is_pulled_computes_what_was_pushed(model: torch.nn.Module, repo: str) -> None:
    commit = tbx.push_to_hub(model, repo)
    assert len(commit.oid) == 40
    report = tbx.verify(repo)
    assert report.same
    assert report.notes == ()  # a pull leaves out the card on purpose
    assert tbx.verify(repo, revision=commit.oid).same
    again = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
    sent, came = model.state_dict(), again.state_dict()
    assert all(came[key].equal(value) for key, value in sent.items())
    x = testing.image(model, 64, 64)
    close = {"rtol": 1e-5, "atol": 1e-5}  # the last bit of a sum depends on where in memory a weight begins
    torch.testing.assert_close(again(x), model(x), **close)
    assert again.edits == model.edits
    _, levels = model.forward_intermediates(x)
    maps = timm.create_model(f"hf-hub:{repo}", pretrained=True, features_only=True).eval()(x)
    for got, expected in zip(maps, levels, strict=True):
        torch.testing.assert_close(got, expected, **close)


def test_one_commit_holds_everything_and_no_pickle(model: torch.nn.Module, repo: str) -> None:
    tbx.push_to_hub(model, repo)
    assert len(HfApi().list_repo_commits(repo)) == 2  # the first one is empty
    files = [".gitattributes", "README.md", "SHA256SUMS", "config.json", "fingerprint.safetensors", "model.safetensors"]
    assert sorted(HfApi().list_repo_files(repo)) == files


def test_the_card_shows_how_to_use_the_repo(model: torch.nn.Module, repo: str) -> None:
    tbx.push_to_hub(model, repo, card={"datasets": ["digits"]})
    card = ModelCard.load(HfApi().hf_hub_download(repo, "README.md"))
    assert card.data.base_model == "timm/test_resnet.r160_in1k"
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["digits"]
    assert f'timm.create_model("hf-hub:{repo}", pretrained=True)' in card.text
    assert "`dcn(stages=(4,))` | eval+train" in card.text


def test_unchanged_content_makes_no_commit(model: torch.nn.Module, repo: str) -> None:
    assert tbx.push_to_hub(model, repo).oid == tbx.push_to_hub(model, repo).oid


def test_a_branch_and_a_pull_request_leave_main_alone(model: torch.nn.Module, repo: str) -> None:
    first = tbx.push_to_hub(model, repo).oid
    with torch.no_grad():
        model.fc.bias.add_(1)
    assert tbx.push_to_hub(model, repo, revision="dev", commit_message="One more").oid != first
    proposed = tbx.push_to_hub(model, repo, create_pr=True)
    assert proposed.pr_revision == "refs/pr/1"
    assert HfApi().repo_info(repo).sha == first
    assert tbx.verify(repo, revision="refs/pr/1").same
    assert timm.create_model(f"hf-hub:{repo}@dev", pretrained=True).fc.bias.equal(model.fc.bias)


def test_a_folder_is_pushed_as_it_is(model: torch.nn.Module, repo: str, tmp_path: Path) -> None:
    tbx.push_to_hub(tbx.save(model, tmp_path / "saved"), repo)
    assert (tbx.pull(repo) / "model.safetensors").read_bytes() == (tmp_path / "saved/model.safetensors").read_bytes()


def test_features_only_models_are_pushed_without_a_classifier(repo: str) -> None:
    backbone = timm.create_model("ext_test_resnet", features_only=True, out_indices=(1, 3), edits="dcn").eval()
    tbx.push_to_hub(backbone, repo)
    x = testing.image(backbone, 64, 64)
    again = timm.create_model(f"hf-hub:{repo}", pretrained=True, features_only=True, out_indices=(1, 3)).eval()
    assert all(torch.equal(got, expected) for got, expected in zip(again(x), backbone(x), strict=True))
    assert timm.create_model(f"hf-hub:{repo}", pretrained=True).num_classes == 0


def test_weights_that_are_not_a_number_are_not_sent(model: torch.nn.Module, repo: str) -> None:
    with torch.no_grad():
        model.fc.bias[0] = float("nan")
    with pytest.raises(tbx.HubError, match="nothing was sent"):
        tbx.push_to_hub(model, repo)
    assert not HfApi().repo_exists(repo)


def test_a_private_repo_needs_a_token_and_the_error_says_so(model: torch.nn.Module, repo: str) -> None:
    tbx.push_to_hub(model, repo, private=True)
    assert tbx.verify(repo).same
    with pytest.raises(tbx.HubError, match="hf auth login"):
        tbx.pull(repo, token=False, cache_dir=Path(HF_HUB_CACHE, "stranger"))


def test_pushing_without_a_token_says_how_to_get_one(model: torch.nn.Module, repo: str) -> None:
    with pytest.raises(tbx.HubError, match="hf auth login"):
        tbx.push_to_hub(model, repo, token=False)


@pytest.mark.parametrize("bad", ["no spaces here", "a/b/c", "me/", "-x/y"])
def test_a_repo_id_that_is_none_is_refused_before_any_work(bad: str) -> None:
    with pytest.raises(ValueError, match="not a valid repo id"):
        tbx.push_to_hub(None, bad)
    with pytest.raises(ValueError, match="not a valid repo id"):
        tbx.pull(bad)


def test_a_repo_or_revision_that_is_not_there_is_named(model: torch.nn.Module, repo: str) -> None:
    with pytest.raises(tbx.HubError, match=f"{repo}@main: no such repo"):
        tbx.pull(repo)
    tbx.push_to_hub(model, repo)
    with pytest.raises(tbx.HubError, match="no such branch, tag or commit"):
        tbx.pull(repo, "v9")


def test_a_repo_with_only_a_pickle_is_refused_with_the_way_out(model: torch.nn.Module, repo: str) -> None:
    tbx.push_to_hub(model, repo)
    HfApi().upload_file(path_or_fileobj=pickle.dumps({}), path_in_repo="pytorch_model.bin", repo_id=repo)
    HfApi().delete_file("model.safetensors", repo)
    with pytest.raises(tbx.HubError, match=r"pickles are not read. Convert"):
        tbx.pull(repo)
    with pytest.raises(tbx.WeightsError, match=rf"{repo}@\w+ has no .*pickles are not read. Convert"):
        timm.create_model(f"hf-hub:{repo}", pretrained=True)


def test_an_architecture_of_a_newer_version_asks_for_an_upgrade(model: torch.nn.Module, repo: str) -> None:
    tbx.push_to_hub(model, repo)
    config = json.loads(Path(tbx.pull(repo), "config.json").read_text())
    config["architecture"] = "ext_test_resnet_tomorrow.needs_pip_install_timm-backbones-ext"
    config["timm_backbones_ext"]["version"] = "9.9"
    HfApi().upload_file(path_or_fileobj=json.dumps(config).encode(), path_in_repo="config.json", repo_id=repo)
    with pytest.raises(tbx.HubError, match=r"unknown architecture 'ext_test_resnet_tomorrow'.*9.9.*Upgrade"):
        tbx.pull(repo)


@pytest.mark.parametrize("kwargs", [{}, {"features_only": True}, {"num_classes": 3}])
def test_a_repo_with_some_of_the_tensors_does_not_load(model: torch.nn.Module, repo: str, kwargs: dict) -> None:
    tbx.push_to_hub(model, repo)
    few = dict(list(load_file(tbx.pull(repo) / "model.safetensors").items())[:13])
    HfApi().upload_file(path_or_fileobj=save(few), path_in_repo="model.safetensors", repo_id=repo)
    with pytest.raises(tbx.WeightsError, match="missing"):
        timm.create_model(f"hf-hub:{repo}", pretrained=True, **kwargs)


def test_weights_exchanged_in_the_repo_do_not_pass_for_those_that_were_sent(model: torch.nn.Module, repo: str) -> None:
    tbx.push_to_hub(model, repo)
    weights = load_file(tbx.pull(repo) / "model.safetensors")
    weights["layer3.0.conv1.weight"] *= 1.01
    HfApi().upload_file(path_or_fileobj=save(weights), path_in_repo="model.safetensors", repo_id=repo)
    report = tbx.verify(repo)
    assert not report.same
    assert report.first == "layer3.0.conv1"
    with pytest.raises(tbx.HubError, match=r"does not compute what was sent.*layer3.0.conv1"):
        tbx.pull(repo)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_flipped_byte_in_the_cache_is_found_and_fetched_again(model: torch.nn.Module, repo: str, name: str) -> None:
    tbx.push_to_hub(model, repo)
    file = tbx.pull(repo) / name
    whole = file.read_bytes()
    flip(file.resolve(), len(whole) // 2)
    assert (tbx.pull(repo) / name).read_bytes() == whole


def test_a_flipped_byte_on_the_server_is_refused(model: torch.nn.Module, repo: str, local_hub: LocalHub) -> None:
    with torch.no_grad():
        model.fc.bias.uniform_()  # content of its own, since equal content is stored once
    commit = tbx.push_to_hub(model, repo).oid
    flip(local_hub.store.blobs.path(local_hub.store.files(repo, commit)["model.safetensors"].sha256), 500_000)
    with pytest.raises(tbx.HubError, match=r"model.safetensors arrived damaged twice"):
        tbx.pull(repo)


@pytest.mark.slow
def test_without_a_network_the_cache_is_used_or_the_error_says_what_lacks(model: torch.nn.Module, repo: str) -> None:
    commit = tbx.push_to_hub(model, repo).oid
    tbx.pull(repo)
    script = f"""
import timm_backbones_ext as tbx
print(tbx.verify({repo!r}).same, tbx.verify({repo!r}, revision={commit!r}).same)
try:
    tbx.pull({repo!r}, revision="v9")
except tbx.HubError as error:
    print(error)
try:
    tbx.push_to_hub(tbx.pull({repo!r}), "me/other")
except tbx.HubError as error:
    print(error)
"""
    # a port where nothing listens
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(Path(tbx.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == "True True"
    assert "cannot be reached and this revision is not in the cache" in second
    assert third.startswith("me/other: the Hub cannot be reached")
