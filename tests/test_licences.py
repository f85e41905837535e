"""What is said of licences: the filter of the list, the warning, and what derived weights carry."""

import warnings
from pathlib import Path

import pytest
import timm
from click.testing import CliRunner
from safetensors.torch import save_file

import timm_backbones_ext as tbx
from timm_backbones_ext.catalog.listing import listings
from timm_backbones_ext.cli import main
from timm_backbones_ext.licences import allows_commercial_use, forbids_commercial_use
from timm_backbones_ext.registry import VARIANTS
from timm_backbones_ext.weights.files import read_metadata

NONCOMMERCIAL = "cc-by-nc-4.0"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a small net under a licence that forbids commercial use."""
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "nc.safetensors", {"license": NONCOMMERCIAL})
    return tmp_path / "nc.safetensors"


def test_every_licence_of_our_variants_is_known_to_allow_or_to_forbid_commercial_use() -> None:
    there = {licence for facts in listings() for licence in facts.tags.values()}
    assert {item for item in there if not allows_commercial_use(item) and not forbids_commercial_use(item)} == {
        "not stated"
    }
    assert not [item for item in there if allows_commercial_use(item) and forbids_commercial_use(item)]


def test_commercial_is_a_filter_of_the_list() -> None:
    names = {facts.name for facts in listings(licence="commercial")}
    assert {"ext_resnet50", "ext_vgg16"} <= names
    assert "ext_convnextv2_tiny" not in names  # cc-by-nc-4.0 only
    assert "ext_resnet20_cifar" not in names  # no weights
    assert names < set(VARIANTS)


def test_weights_that_are_not_for_commercial_use_say_so_once_per_origin(file: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    for repo, said in (("me/one", 1), ("me/one", 0), ("me/two", 1)):
        overlay = {"state_dict": state, "license": NONCOMMERCIAL, "hf_hub_id": repo}
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            timm.create_model("ext_test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)
        found = [item for item in seen if issubclass(item.category, tbx.LicenseWarning)]
        assert len(found) == said
        assert all(f"the weights of {repo} are under {NONCOMMERCIAL}" in str(item.message) for item in found)
    with pytest.warns(tbx.LicenseWarning, match=r"nc.safetensors are under cc-by-nc-4.0, which forbids commercial use"):
        tbx.load_checkpoint(timm.create_model("ext_test_resnet"), file)


def test_converted_and_saved_weights_carry_the_licence_of_their_source(file: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.safetensors", tmp_path / "folder"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tbx.LicenseWarning)
        for command in (
            ["convert", str(file), str(out), "--to", "timm", "--arch", "test_resnet"],
            ["save", "ext_test_resnet", str(folder), "--weights", str(out), "--edits", "eca"],
        ):
            done = CliRunner().invoke(main, command)
            assert done.exit_code == 0, done.output
    assert read_metadata(out)["license"] == NONCOMMERCIAL
    assert f"license: {NONCOMMERCIAL}" in (folder / "README.md").read_text()
    with pytest.warns(tbx.LicenseWarning, match=NONCOMMERCIAL):
        timm.create_model(f"local-dir:{folder}", pretrained=True)


def test_grown_weights_carry_the_licence_of_their_source() -> None:
    model = timm.create_model("ext_resnet20_cifar")
    model.pretrained_cfg = {**model.pretrained_cfg, "license": NONCOMMERCIAL}
    assert tbx.grow(model, "ext_resnet32_cifar").pretrained_cfg["license"] == NONCOMMERCIAL
