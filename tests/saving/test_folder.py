"""Models as folders: what is written, what is refused, and that timm itself reads it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

import timm_backbones_ext as tbx
from timm_backbones_ext import testing


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_the_weights_say_what_they_are(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_test_resnet", edits="dcn, frozen_bn"), tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "timm_backbones_ext": tbx.__version__,
        "timm": timm.__version__,
        "base": "test_resnet.r160_in1k",
        "edits": '["dcn", "frozen_bn"]',
    }


@pytest.mark.parametrize("name", ["ext_test_resnet", "ext_resnet50_dcn_c5"])
def test_timm_reads_the_folder(name: str, tmp_path: Path) -> None:
    model = testing.calibrate(timm.create_model(name, edits="in_chans(4)", num_classes=3)).eval()
    tbx.save(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = testing.image(model, 64, 64)
    assert torch.equal(again(x), model(x))
    assert type(again) is type(model)


def test_the_config_keeps_the_normalisation_of_the_colours(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_resnet18", edits="in_chans(5)"), tmp_path)
    saved = timm.create_model(f"local-dir:{tmp_path}").pretrained_cfg
    assert saved["mean"] == [0.485, 0.456, 0.406, 0.0, 0.0]
    assert saved["std"] == [0.229, 0.224, 0.225, 1.0, 1.0]


def test_an_argument_that_the_saved_model_cannot_take_is_not_blamed_on_the_config_alone(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_test_resnet", edits="in_chans(5)"), tmp_path)
    with pytest.raises(tbx.HubError, match=r"or not with the arguments of this call .*conv1\.0 has 5 input channels"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=3)


def test_arguments_of_creation_come_back(tmp_path: Path) -> None:
    model = timm.create_model("ext_test_resnet", output_stride=16, edits="dcn(stages=[4])", num_classes=4)
    tbx.save(model, tmp_path)
    assert config(tmp_path)["model_args"]["output_stride"] == 16
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.forward_features(torch.randn(1, 3, 64, 64)).shape[-1] == 4


@pytest.mark.parametrize("kind", ["list", "dict", "hook", "getter", "fx"])
def test_every_feature_wrapper_is_saved_under_the_full_models_keys(kind: str, tmp_path: Path) -> None:
    model = timm.create_model("ext_test_resnet", features_only=True, feature_cls=kind, out_indices=(0, 2), edits="dcn")
    tbx.save(model, tmp_path)
    full = timm.create_model("ext_test_resnet", num_classes=0, edits="dcn")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == full.state_dict().keys()
    assert tbx.verify(tmp_path).same
    assert config(tmp_path)["num_classes"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_stay_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = timm.create_model("ext_test_resnet").to(dtype)
    tbx.save(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("layer1.0.conv1.weight").equal(model.layer1[0].conv1.weight)


def test_channels_last_models_are_saved(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_test_resnet").to(memory_format=torch.channels_last), tmp_path)
    assert tbx.verify(tmp_path).same


def test_compiled_and_parallel_models_are_unwrapped(tmp_path: Path) -> None:
    model = timm.create_model("ext_test_resnet")
    tbx.save(torch.nn.DataParallel(torch.compile(model)), tmp_path)
    assert tbx.compare(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model).same


def test_a_timm_model_edited_in_place_is_saved_under_its_ext_name(tmp_path: Path) -> None:
    tbx.save(tbx.edit(timm.create_model("test_resnet"), "dcn"), tmp_path)
    assert config(tmp_path)["architecture"] == "ext_test_resnet.needs_pip_install_timm-backbones-ext"
    assert tbx.verify(tmp_path).same


def test_a_name_of_the_users_own_is_saved_as_base_and_edits(tmp_path: Path) -> None:
    if "ext_test_my18" not in tbx.VARIANTS:
        tbx.register_variant("ext_test_my18", base="test_resnet", edits=["dcn", "in_chans(5)"])
    tbx.save(timm.create_model("ext_test_my18"), tmp_path)
    assert config(tmp_path)["architecture"].startswith("ext_test_resnet.")
    assert config(tmp_path)["model_args"]["edits"] == ["dcn", "in_chans(n=5)"]
    assert tbx.verify(tmp_path).same


def test_a_merged_variant_is_saved_under_the_name_of_its_base(tmp_path: Path) -> None:
    model = timm.create_model("ext_resnet50_rep", num_classes=2).eval()
    tbx.save(tbx.merge(model), tmp_path)
    assert config(tmp_path)["architecture"].startswith("ext_resnet50.")
    assert "edits" not in config(tmp_path)["model_args"]
    assert tbx.verify(tmp_path).same


def test_a_live_model_is_saved_under_the_name_whose_edits_come_first(tmp_path: Path) -> None:
    model = tbx.edit(timm.create_model("tf_efficientnet_b0", num_classes=2), "static_pad, in_chans(4)")
    tbx.save(model, tmp_path)
    assert config(tmp_path)["architecture"].startswith("ext_tf_efficientnet_b0.")
    assert config(tmp_path)["model_args"]["edits"] == ["in_chans(n=4)"]
    assert tbx.verify(tmp_path).same
    with pytest.raises(ValueError, match=r"ext_tf_efficientnet_b0 \(static_pad\)"):
        tbx.save(tbx.edit(timm.create_model("tf_efficientnet_b0"), "in_chans(4)"), tmp_path / "out")


def test_a_model_that_others_could_not_create_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resnet26 with the edits dcn has no name"):
        tbx.save(tbx.edit(timm.create_model("resnet26"), "dcn"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_timm_wrapper_that_threw_its_model_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a timm model, or a features_only model of this package"):
        tbx.save(timm.create_model("resnet18", features_only=True), tmp_path)


def test_labels_are_one_per_class(tmp_path: Path) -> None:
    model = timm.create_model("ext_test_resnet", num_classes=2)
    with pytest.raises(ValueError, match="expected 2 label names, one per class; got 3"):
        tbx.save(model, tmp_path / "out", label_names=["a", "b", "c"])
    tbx.save(model, tmp_path / "out", label_names=["cat", "dog"])
    assert config(tmp_path / "out")["label_names"] == ["cat", "dog"]


def test_a_saved_model_is_replaced_only_when_asked(tmp_path: Path) -> None:
    model = timm.create_model("ext_test_resnet")
    tbx.save(model, tmp_path)
    with pytest.raises(FileExistsError, match="or overwrite it"):
        tbx.save(model, tmp_path)
    tbx.save(timm.create_model("ext_test_resnet", num_classes=2), tmp_path, overwrite=True)
    assert config(tmp_path)["num_classes"] == 2


def test_nothing_is_left_of_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("ext_test_resnet")
    tbx.save(model, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    monkeypatch.setattr("timm_backbones_ext.saving.folder.render_card", lambda *_, **__: 1 / 0)
    for folder in ("old", "new"):
        with pytest.raises(ZeroDivisionError):
            tbx.save(model, tmp_path / folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_to_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot write to .*; choose another folder"):
        tbx.save(timm.create_model("ext_test_resnet"), tmp_path / place)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_folder_without_a_fingerprint_cannot_be_verified(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_test_resnet"), tmp_path)
    (tmp_path / "fingerprint.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="nothing to verify"):
        tbx.verify(tmp_path)


@pytest.mark.slow
def test_plain_timm_says_what_to_install(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_test_resnet"), tmp_path)
    script = f"import timm; timm.create_model('local-dir:{tmp_path}')"
    env = {"TIMM_BACKBONES_EXT_AUTOLOAD": "0", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert "Unknown model (ext_test_resnet.needs_pip_install_timm-backbones-ext)" in done.stderr


def test_the_hint_is_a_valid_tag_that_no_list_shows() -> None:
    timm.create_model("ext_resnet18.needs_pip_install_timm-backbones-ext")
    assert not timm.list_models("*needs_pip*", include_tags=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = testing.calibrate(timm.create_model("ext_test_resnet", edits="dcn(stages=[4])", num_classes=7)).eval()
    tbx.save(model, tmp_path, label_names=list("abcdefg"))
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    x = testing.image(model, 64, 64)
    torch.testing.assert_close(wrapped(x).logits, model(x), rtol=1e-5, atol=1e-5)
    assert wrapped.config.id2label[2] == "c"
