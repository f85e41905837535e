"""Models shared as the difference to their base, over real HTTP against a local Hub."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from faulty import FaultyHub
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.cli.main import main
from timm_backbones_ext.hub.changes import tensor_changes
from timm_backbones_ext.saving.folder import load
from timm_backbones_ext.transport import Repo

BASE, WEIGHTS, CONFIG = "timm/test_resnet.r160_in1k", "model.safetensors", "config.json"


@pytest.fixture(scope="module", autouse=True)
def base(local_hub: FaultyHub) -> Iterator[str]:
    """The base on the Hub, and its commit."""
    model = testing.calibrate(timm.create_model("test_resnet"))
    yield tbx.push_to_hub(model, BASE, as_timm=True).oid
    HfApi().delete_repo(BASE)


def trained(edits: str = "lora", **kwargs: object) -> torch.nn.Module:
    """A model whose edit and classifier have learned something."""
    model = timm.create_model("ext_test_resnet", pretrained=True, edits=edits or None, num_classes=4, **kwargs).eval()
    tbx.freeze_base(model, norms=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 if parameter.requires_grad else 0)
    return model


@pytest.fixture(scope="module")
def model(base: str) -> torch.nn.Module:
    return trained()


@pytest.fixture(scope="module")
def repo(model: torch.nn.Module) -> str:
    tbx.push_to_hub(model, "me/delta", delta=True, label_names=["a", "b", "c", "d"])
    return "me/delta"


@pytest.fixture(scope="module")
def saved(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tbx.save(model, tmp_path_factory.mktemp("delta") / "saved", delta=True)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(value.equal(two[key]) for key, value in one.items())


def test_a_difference_holds_only_what_changed_and_names_its_base(
    model: torch.nn.Module, saved: Path, base: str
) -> None:
    held = load_file(saved / WEIGHTS)
    assert {key for key in held if "lora" not in key} == {"fc.weight", "fc.bias"}
    about = json.loads((saved / CONFIG).read_text())["timm_backbones_ext"]["delta"]
    assert (about["base"]["repo"], about["base"]["commit"], about["without"]) == (BASE, base, [])


def test_every_way_to_load_a_difference_gives_the_whole_model(model: torch.nn.Module, repo: str, saved: Path) -> None:
    """In one test, since each way loads the same repo."""
    x = testing.image(model, 64, 64)
    for source in (f"hf-hub:{repo}", f"local-dir:{saved}"):
        assert same(timm.create_model(source, pretrained=True), model)
        maps = timm.create_model(source, pretrained=True, features_only=True).eval()(x)
        for got, expected in zip(maps, model.forward_intermediates(x)[1], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)  # frozen norms round otherwise
    assert tbx.verify(repo).same
    assert tbx.verify(saved).same
    assert same(timm.create_model(f"local-dir:{tbx.pull(repo)}", pretrained=True), model)


def test_a_difference_can_be_pulled_whole(model: torch.nn.Module, repo: str, tmp_path: Path) -> None:
    folder = tbx.pull(repo, whole=tmp_path / "whole", cache_dir=tmp_path / "cache")
    assert folder == tmp_path / "whole"
    config = json.loads((folder / CONFIG).read_text())
    assert "delta" not in config["timm_backbones_ext"]
    assert config["label_names"] == ["a", "b", "c", "d"]
    assert load_file(folder / WEIGHTS).keys() == model.state_dict().keys()
    assert same(load(folder), model)
    assert "Only the difference" not in (folder / "README.md").read_text()


def test_the_base_is_fetched_once_for_all_that_differ_from_it(
    repo: str, saved: Path, local_hub: FaultyHub, tmp_path: Path
) -> None:
    HfApi().create_repo("me/other")
    HfApi().upload_folder(folder_path=saved, repo_id="me/other")
    local_hub.faults()
    for name in (repo, "me/other"):
        tbx.pull(name, cache_dir=tmp_path, check=False)
    asked = [seen[1] for seen in local_hub.faults() if BASE in seen[1] and WEIGHTS in seen[1] and seen[0] == "GET"]
    assert len(asked) == 1


def test_the_card_says_how_large_the_difference_is_and_where_the_base_is(repo: str, base: str) -> None:
    card = Path(HfApi().hf_hub_download(repo, "README.md")).read_text()
    assert f"base_model: {BASE}" in card
    assert f"timm-ext pull --whole FOLDER {repo}" in card
    assert base in card
    assert f"{HfApi().model_info(repo, files_metadata=True).siblings[-1].size:,} bytes" in card


def test_what_changed_is_shown_tensor_by_tensor(repo: str, saved: Path, base: str, tmp_path: Path) -> None:
    named, found = tensor_changes(repo)
    assert named == f"{BASE}@{base}"
    kinds = {item.name: item.kind for item in found}
    assert kinds.pop("fc.weight") == kinds.pop("fc.bias") == "reshaped"
    assert set(kinds.values()) == {"new"}
    assert tensor_changes(saved) == (named, found)
    with torch.no_grad():
        moved = trained("")
        moved.layer1[0].conv1.weight.mul_(1.5)
    folder = tbx.save(moved, tmp_path, delta=True)
    (one,) = [item for item in tensor_changes(folder)[1] if item.kind == "changed"]
    assert one.name == "layer1.0.conv1.weight"
    assert one.norm == pytest.approx(0.5)


def test_a_difference_to_a_difference_is_one_to_the_first_base(repo: str, base: str, tmp_path: Path) -> None:
    again = timm.create_model(f"hf-hub:{repo}", pretrained=True)
    with torch.no_grad():
        again.fc.bias.add_(1)
    for given in (None, repo):
        folder = tbx.save(again, tmp_path, delta=True, base=given, overwrite=True)
        about = json.loads((folder / CONFIG).read_text())["timm_backbones_ext"]["delta"]["base"]
        assert (about["repo"], about["commit"]) == (BASE, base)
        assert same(load(folder), again)


def test_a_model_of_timm_is_saved_under_a_name_of_ours(base: str, tmp_path: Path) -> None:
    plain = timm.create_model("test_resnet", pretrained=True).eval()
    with torch.no_grad():
        plain.fc.bias.add_(1)
    folder = tbx.save(plain, tmp_path / "plain", delta=True)
    assert json.loads((folder / CONFIG).read_text())["architecture"].startswith("ext_test_resnet.")
    assert list(load_file(folder / WEIGHTS)) == ["fc.bias"]
    assert same(load(folder), plain)
    tbx.push_to_hub(plain, "me/plain", delta=True)


def test_a_folder_is_pushed_as_a_difference(tmp_path: Path) -> None:
    whole = trained()
    tbx.save(whole, tmp_path, label_names=list("abcd"), section="My words.")
    with pytest.raises(ValueError, match="say delta=True too"):
        tbx.push_to_hub(tmp_path, "me/folder", base=BASE)
    tbx.push_to_hub(tmp_path, "me/folder", delta=True)
    arrived = tbx.pull("me/folder")
    assert (arrived / WEIGHTS).stat().st_size < (tmp_path / WEIGHTS).stat().st_size / 2
    assert same(load(arrived), whole)
    assert json.loads((arrived / CONFIG).read_text())["label_names"] == list("abcd")


def test_a_merged_model_is_a_larger_difference_that_loads_the_same(tmp_path: Path) -> None:
    merged = tbx.merge(trained())
    folder = tbx.save(merged, tmp_path, delta=True)
    assert "layer1.0.conv1.weight" in load_file(folder / WEIGHTS)
    assert same(load(folder), merged)


def test_a_difference_of_a_wrapped_or_headless_model_is_that_of_the_model(tmp_path: Path) -> None:
    features = timm.create_model("ext_test_resnet", pretrained=True, edits="lora", features_only=True)
    tbx.save(features, tmp_path / "features", delta=True)
    about = json.loads((tmp_path / "features" / CONFIG).read_text())["timm_backbones_ext"]["delta"]
    assert about["without"] == ["fc.bias", "fc.weight"]
    parallel = torch.nn.DataParallel(trained())
    assert same(load(tbx.save(parallel, tmp_path / "parallel", delta=True)), parallel.module)


def test_a_lock_binds_the_base_too(repo: str, tmp_path: Path) -> None:
    lock = tmp_path / "backbones.lock"
    entry = tbx.lock_add(repo, path=lock)
    assert CONFIG in entry.sha256
    assert tbx.pull(repo, lock=lock)
    config = json.loads(Path(HfApi().hf_hub_download(repo, CONFIG)).read_text())
    config["timm_backbones_ext"]["delta"]["base"]["commit"] = "0" * 40
    lock.write_text(lock.read_text().replace(entry.sha256[CONFIG], "0" * 64))
    with pytest.raises(tbx.HubError, match="locked is 0000"):
        tbx.pull(repo, lock=lock, cache_dir=tmp_path / "cache")


DAMAGES = ("weights", "digest", "unknown", "missing", "base", "without", "name", "entry", "format")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_difference_that_was_damaged_is_refused_before_it_is_loaded(kind: str, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    (folder / "SHA256SUMS").unlink()  # what is meant here is seen without it
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    delta = config["timm_backbones_ext"]["delta"]
    said = "was saved; the file of the difference is damaged"
    if kind == "weights":
        tensors["fc.bias"][0] = float("nan")
    elif kind == "digest":
        delta["digest"] = "0" * 64
    elif kind == "unknown":
        tensors["strange.weight"] = torch.zeros(1)
    elif kind == "missing":
        del tensors["fc.bias"]
    elif kind == "base":
        delta["base"]["sha256"], said = "0" * 64, rf"{BASE}@.*has sha256 .* locked is 0000"
    elif kind == "without":
        delta["without"], said = ["fc.strange"], "the base has no tensor 'fc.strange'"
    elif kind == "name":
        config["architecture"], said = "test_resnet", "expected a name that begins with ext_"
    elif kind == "entry":
        delta["base"]["commit"], said = "main", "has an entry 'delta' that this version does not read"
    else:
        delta["base"]["format"], said = "other", "a base in the format 'other'"
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises((tbx.HubError, tbx.WeightsError), match=said):
        tbx.verify(folder)
    if kind != "name":  # then it is timm that loads it
        with pytest.raises((tbx.HubError, tbx.WeightsError), match=said):
            timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)


@pytest.fixture(scope="module")
def apart(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base in a folder, and a folder with a difference to `me/base`, where it was pushed."""
    held = testing.calibrate(timm.create_model("test_resnet"), seed=1)
    base = tbx.save(held, tmp_path_factory.mktemp("apart") / "base", as_timm=True)
    tbx.push_to_hub(base, "me/base")
    edited = tbx.edit(held, "lora(rank=2)").eval()
    return base, tbx.save(edited, base.parent / "delta", delta=True, base="me/base")


def gone(hub: FaultyHub) -> None:
    HfApi().delete_repo("me/base")


def gated(hub: FaultyHub) -> None:
    hub.faults({"kind": "gated", "where": "me/base", "times": -1})


def only_a_pickle(hub: FaultyHub) -> None:
    """The history is squashed, as on the Hub, so that the commit is gone too."""
    HfApi().delete_repo("me/base")
    HfApi().create_repo("me/base")
    HfApi().upload_file(path_or_fileobj=b"pickle", path_in_repo="pytorch_model.bin", repo_id="me/base")


def damaged(hub: FaultyHub) -> None:
    hub.faults({"kind": "flip", "where": "/storage/", "at": 100_000, "times": -1})


def unreachable(hub: FaultyHub) -> None:
    hub.faults({"kind": "reset", "where": "me/base", "times": -1})


def moved(hub: FaultyHub) -> None:
    HfApi().create_repo("moved/base")
    hub.faults({"kind": "moved", "where": "me/base", "from": "me/base", "to": "moved/base", "times": -1})


MISHAPS = {
    gone: "me/base@.*no such repo",
    gated: "me/base@.* is gated: ask for access",
    only_a_pickle: "me/base@.*no such branch, tag or commit",
    damaged: "model.safetensors arrived damaged twice",
    unreachable: "cannot be reached",
    moved: "moved|no such branch",
}


@pytest.mark.parametrize("mishap", MISHAPS, ids=lambda item: item.__name__)
def test_a_base_that_cannot_be_had_is_an_error_that_names_both_repos(
    mishap: object, apart: tuple[Path, Path], local_hub: FaultyHub, tmp_path: Path
) -> None:
    HfApi().create_repo("me/base", exist_ok=True)
    HfApi().upload_folder(folder_path=apart[0], repo_id="me/base")
    commit = HfApi().model_info("me/base").sha
    folder = Path(shutil.copytree(apart[1], tmp_path / "delta"))
    config = json.loads((folder / CONFIG).read_text())
    config["timm_backbones_ext"]["delta"]["base"]["commit"] = commit
    (folder / CONFIG).write_text(json.dumps(config))
    HfApi().create_repo("me/needs", exist_ok=True)
    HfApi().upload_folder(folder_path=folder, repo_id="me/needs")
    try:
        mishap(local_hub)
        said = rf"me/needs@main holds only the difference to its base .*{MISHAPS[mishap]}.*--whole"
        with pytest.raises(tbx.HubError, match=said):
            tbx.pull("me/needs", cache_dir=tmp_path / "cache", check=False)
        assert not [path for path in tmp_path.rglob("models--me--base/snapshots/*/*")]
    finally:
        local_hub.faults()


def test_a_base_in_the_cache_needs_no_request(repo: str, local_hub: FaultyHub) -> None:
    tbx.pull(repo)
    local_hub.faults({"kind": "reset", "where": BASE, "times": -1})
    tbx.pull(repo, check=False)
    assert not [seen for seen in local_hub.faults() if BASE in seen[1]]


def test_a_base_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    """In one test, since each refusal needs a model with pretrained weights."""
    other = testing.calibrate(timm.create_model("test_resnet"), seed=2)
    tbx.push_to_hub(other, "me/stranger", as_timm=True)
    ours = trained()
    with pytest.raises(ValueError, match=rf"came from {BASE}@.*and me/stranger@.* is another file"):
        tbx.save(ours, tmp_path / "a", delta=True, base="me/stranger")
    with pytest.raises(tbx.HubError, match=r"base of the model cannot be had: me/nobody@main: no such repo"):
        tbx.save(ours, tmp_path / "a", delta=True, base="me/nobody")
    with pytest.raises(ValueError, match="say delta=True too"):
        tbx.save(ours, tmp_path / "a", base=BASE)
    with pytest.raises(ValueError, match="plain timm reads no differences"):
        tbx.save(ours, tmp_path / "a", delta=True, as_timm=True)
    with pytest.raises(ValueError, match=r"no tensor of the model is bit-identical to the base's .*leave out delta"):
        tbx.save(timm.create_model("ext_test_resnet").double(), tmp_path / "a", delta=True)
    untagged = timm.create_model("ext_test_resnet")
    untagged.pretrained_cfg = {**untagged.pretrained_cfg, "tag": "mine"}
    with pytest.raises(ValueError, match="name the base: base='owner/name'"):
        tbx.save(untagged, tmp_path / "a", delta=True)
    nameless = timm.create_model("test_vit")
    with pytest.raises(ValueError, match="test_vit has no ext_ name"):
        tbx.save(nameless, tmp_path / "a", delta=True)
    assert not (tmp_path / "a").exists()


def test_nan_in_the_difference_or_in_the_base_is_not_sent(apart: tuple[Path, Path], tmp_path: Path) -> None:
    broken = trained()
    with torch.no_grad():
        broken.fc.bias[0] = float("nan")
    with pytest.raises(tbx.HubError, match=r"nothing was sent: 1 tensors have NaN or Inf, such as fc.bias"):
        tbx.push_to_hub(broken, "me/nan", delta=True)
    tensors = load_file(apart[0] / WEIGHTS)
    tensors["conv1.0.weight"][0] = float("nan")
    save_file(tensors, tmp_path / WEIGHTS)
    HfApi().create_repo("me/nan-base")
    HfApi().upload_file(path_or_fileobj=tmp_path / WEIGHTS, path_in_repo=WEIGHTS, repo_id="me/nan-base")
    source = {"hf_hub_id": "me/nan-base", "hf_hub_filename": WEIGHTS}
    inherited = timm.create_model("ext_test_resnet", pretrained=True, pretrained_cfg_overlay=source, edits="lora")
    with pytest.raises(tbx.HubError, match=r"nothing was sent: 1 tensors have NaN or Inf, such as conv1.0.weight"):
        tbx.push_to_hub(inherited, "me/nan", delta=True)
    assert not HfApi().repo_exists("me/nan")


@pytest.mark.slow
def test_the_command_line_pushes_shows_and_pulls_a_difference(tmp_path: Path) -> None:
    tbx.save(trained(), tmp_path / "whole")
    run = CliRunner()

    def output(*words: str) -> str:
        done = run.invoke(main, words)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    planned = output("push", str(tmp_path / "whole"), "me/typed", "--delta", "--base", BASE, "--dry-run", "--json")
    sizes = {item["name"]: item["size"] for item in json.loads(planned)["changes"]}
    assert sizes[WEIGHTS] < (tmp_path / "whole" / WEIGHTS).stat().st_size / 2
    assert not HfApi().repo_exists("me/typed")
    output("push", str(tmp_path / "whole"), "me/typed", "--delta")
    shown = output("info", "hf-hub:me/typed")
    assert f"holds the difference to {BASE}@" in shown
    assert "fc.weight" in shown
    assert json.loads(output("info", "me/typed", "--json"))["delta"]["base"].startswith(BASE)
    output("pull", "--whole", str(tmp_path / "pulled"), "me/typed")
    assert (tmp_path / "pulled" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    output("save", str(tmp_path / "pulled"), str(tmp_path / "again"), "--delta", "--pretrained")
    assert (tmp_path / "again" / WEIGHTS).stat().st_size == sizes[WEIGHTS]


def test_a_base_on_another_hub_is_taken_only_if_the_user_says_so(
    apart: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyHub() as other:
        api = HfApi(other.endpoint)
        api.create_repo("me/far")
        api.upload_folder(folder_path=apart[0], repo_id="me/far")
        edited = tbx.edit(timm.create_model(f"local-dir:{apart[0]}", pretrained=True), "lora(rank=2)")
        with pytest.raises(tbx.HubError, match="me/far@main: no such repo"):
            tbx.save(edited, tmp_path / "far", delta=True, base="me/far")
        monkeypatch.setenv("TIMM_BACKBONES_EXT_BASE_ENDPOINT", other.endpoint)
        other.faults()
        folder = tbx.save(edited, tmp_path / "far", delta=True, base="me/far")
        assert other.faults()
        assert Repo("me/far", endpoint=other.endpoint).token is False
        assert same(load(folder, tmp_path / "cache"), edited)
        monkeypatch.delenv("TIMM_BACKBONES_EXT_BASE_ENDPOINT")
        with pytest.raises(tbx.HubError, match="holds only the difference to its base me/far@"):
            load(folder, tmp_path / "other")
