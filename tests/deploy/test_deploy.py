"""deploy_model and load: every runtime computes what the model computes, with its file, in the model's containers."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from small import maps_model
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.deploy import load, making
from timm_backbones_ext.deploy.fusion.graphs import listed
from timm_backbones_ext.deploy.loading import FACTS
from timm_backbones_ext.deploy.photos import prepared
from timm_backbones_ext.deploy.runtimes import RUNTIMES, find
from timm_backbones_ext.deploy.runtimes.ncnn import Ncnn

FILES = ["onnxruntime", "openvino", "ncnn"]
EXAMPLE = torch.zeros(1, 3, 64, 64)


def errors(got: list, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected = listed(copy.deepcopy(model).double().eval()(x.double()))
    return testing.largest([torch.as_tensor(g).double() for g in got], expected)


@pytest.mark.parametrize("runtime", [*FILES, "eager"])
def test_a_deployed_folder_computes_what_the_model_computes(runtime: str, deployed) -> None:
    net = load(deployed(runtime), threads=1)
    for shape in ((1, 3, 64, 64), (2, 3, 75, 50), (1, 3, 32, 96)):
        x = torch.randn(shape)
        got = net(x.numpy())
        assert isinstance(got, list)
        assert all(type(each) is np.ndarray and each.dtype == np.float32 for each in got)
        assert errors(got, maps_model(), x) <= 1e-5
    assert all(isinstance(each, torch.Tensor) for each in net(x))


@pytest.mark.slow
def test_a_compiled_model_computes_the_same_and_is_saved_and_not_what_auto_tries(tmp_path: Path) -> None:
    net = tbx.deploy_model(maps_model(), EXAMPLE, "compile", dynamic=False, threads=1)
    x = torch.randn(EXAMPLE.shape)
    assert net.facts["runtime"] == "compile"
    assert errors(load(net.save(tmp_path / "served"))(x), maps_model(), x) <= 1e-5
    assert "compile" not in [each.name for each in making._chosen("auto", "float32")]


def test_the_facts_say_what_the_model_is_and_how_it_was_chosen(deployed) -> None:
    facts = json.loads((deployed("ncnn") / FACTS).read_text())
    assert (facts["architecture"], facts["license"]) == ("ext_test_resnet", "apache-2.0")
    assert facts["digest"] == tbx.fingerprint(maps_model()).digest
    assert [level["stride"] for level in facts["levels"]] == [16, 4, 16]
    assert facts["exactness"] == "same function"
    assert facts["error"] <= facts["limit"]
    assert facts["machine"]["processor"]


NO_TORCH = """
import sys
from timm_backbones_ext.deploy import load
import numpy as np
for folder in sys.argv[1:]:
    maps = load(folder)(np.zeros((2, 3, 64, 64), dtype=np.float32))
    assert [m.shape[0] for m in maps] == [2, 2, 2]
print({"torch", "timm", "torchvision", "huggingface_hub", "rich", "PIL"} & set(sys.modules))
"""


def test_loading_and_running_imports_neither_torch_nor_timm(deployed) -> None:
    command = [sys.executable, "-c", NO_TORCH, *map(str, map(deployed, FILES))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


class Wrong(Ncnn):
    """Computes something else."""

    name = "wrong"

    def load(self, folder: Path, options: object) -> object:
        run = super().load(folder, options)
        return lambda x: [1.001 * each for each in run(x)]


class Broken(Ncnn):
    """Cannot load its file."""

    name = "broken"

    def load(self, folder: Path, options: object) -> object:
        raise RuntimeError("its file is too new")


@pytest.mark.slow
def test_auto_drops_a_wrong_and_a_broken_runtime_and_measures_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(making, "installed", lambda: [Wrong(), Broken(), find("ncnn"), find("eager")])
    net = tbx.deploy_model(maps_model(), EXAMPLE, seconds=0.05)
    assert net.facts["runtime"] in ("ncnn", "eager")
    assert set(net.facts["measured"]) == {"ncnn", "eager"}
    assert "changes the maps by 1.0e-03" in net.facts["left_out"]["wrong"]
    printed = capsys.readouterr().out
    assert "left out: its file is too new" in printed
    assert "fastest: " in printed


def test_a_model_that_no_runtime_computes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "installed", lambda: [Wrong(), Broken()])
    with pytest.raises(
        tbx.BackboneError, match="no runtime computes what the model computes: wrong: wrong changes the maps by"
    ):
        tbx.deploy_model(maps_model(), EXAMPLE)


def test_a_classifier_names_a_photo(tmp_path: Path) -> None:
    from PIL import Image

    model = testing.trained("ext_test_resnet", num_classes=4)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["cat", "dog", "cup", "rocket"]}
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    net = tbx.deploy_model(model, tmp_path / "photo.png", "ncnn")
    config = timm.data.resolve_data_config(model=model)
    image = timm.data.create_transform(**config)(photo)[None]
    np.testing.assert_allclose(prepared(photo, net.facts["image"]), image.numpy(), atol=1e-6)
    with torch.no_grad():
        odds = model(image).softmax(1)[0]
    (name, value), *_ = net.classify(tmp_path / "photo.png", top=2)
    assert name == ["cat", "dog", "cup", "rocket"][odds.argmax()]
    assert abs(value - odds.max().item()) < 1e-4
    assert net(image).shape == (1, 4)


@pytest.mark.slow
def test_a_pyramid_gives_a_dict_and_odd_sides_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tbx.pyramid("ext_test_resnet", 16, "P3-P6").eval()
    net = tbx.deploy_model(model, EXAMPLE, "openvino")
    x = torch.randn(1, 3, 75, 50)
    assert list(net(x)) == ["p3", "p4", "p5", "p6"]
    assert errors(list(net(x).values()), model, x) <= 2e-5
    eager = tbx.deploy_model(model, EXAMPLE, "eager")
    with pytest.raises(ValueError, match="runtime 'eager' cannot save this model"):
        eager.save(tmp_path / "eager")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", FILES)
def test_deformable_convs_run_in_every_runtime(runtime: str) -> None:
    model = tbx.edit(testing.trained("test_resnet", num_classes=10), "dcn(stages=[4])").eval()
    for name, parameter in model.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(parameter, std=0.02)
    net, x = tbx.deploy_model(model, EXAMPLE, runtime), torch.randn(1, 3, 64, 96)
    assert errors([net(x)], model, x) <= net.facts["limit"]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["test_convnext", "test_efficientnet", "vgg11_bn"])
def test_every_family_runs_in_ncnn(base: str) -> None:
    model = testing.trained(base, num_classes=10 if base.startswith("vgg") else 0)
    net = tbx.deploy_model(tbx.wrap(model).eval(), EXAMPLE, "ncnn")
    assert net.facts["error"] <= net.facts["limit"]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "openvino"])
def test_bfloat16_is_called_approximate_with_its_error_and_refused_above_a_tolerance(runtime: str) -> None:
    net = tbx.deploy_model(maps_model(), EXAMPLE, runtime, dtype="bfloat16")
    assert net.facts["exactness"] == "approximate"
    assert net.facts["error"] <= net.facts["limit"] == 0.1
    assert net(EXAMPLE)[0].dtype is torch.float32
    if runtime == "eager":
        assert net.facts["error"] > 1e-3
        with pytest.raises(tbx.BackboneError, match=r"eager changes the maps by .*allowed is 1\.0e-04"):
            tbx.deploy_model(maps_model(), EXAMPLE, runtime, dtype="bfloat16", tolerance=1e-4)


def test_a_saved_folder_is_replaced_only_when_asked(deployed, tmp_path: Path) -> None:
    net = load(deployed("ncnn"))
    folder = net.save(tmp_path / "net")
    with pytest.raises(FileExistsError, match="choose another folder, or overwrite it"):
        net.save(folder)
    (folder / "extra").touch()
    assert not (net.save(folder, overwrite=True) / "extra").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(FileExistsError):
        net.save(tmp_path / "other", overwrite=True)
    with pytest.raises(OSError, match="mine"):
        net.save(tmp_path / "other" / "mine" / "net")
    assert [item.name for item in sorted(tmp_path.iterdir())] == ["net", "other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtime": "tensorflow"}, "unknown runtime 'tensorflow'; there is: auto, eager"),
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"dtype": "bfloat16", "runtime": "ncnn"}, "runtime 'ncnn' has no bfloat16; it has: float32"),
        ({"example": torch.zeros(1, 5, 64, 64)}, r"of the shape \(N, 3, H, W\); got \(1, 5, 64, 64\)"),
        ({"example": torch.zeros(1, 3, 64, 64).double()}, "an example in float32; got torch.float64"),
        ({"example": torch.zeros(3, 64, 64)}, r"got \(3, 64, 64\)"),
        ({"model": "training"}, "eval mode"),
        ({"model": "nan"}, "NaN"),
    ],
    ids=str,
)
def test_wrong_arguments_are_errors_that_say_what_was_expected(change: dict, message: str) -> None:
    model = maps_model()
    state = change.pop("model", "") if "model" in change else ""
    model.train(state == "training")
    if state == "nan":
        nn.init.constant_(next(model.parameters()), float("nan"))
    with pytest.raises(ValueError, match=message):
        tbx.deploy_model(model, **{"example": EXAMPLE, "runtime": "ncnn", **change})


def test_wrong_images_are_errors_and_a_static_model_takes_its_size_alone(deployed) -> None:
    net = load(deployed("ncnn"))
    for image, message in (
        (np.zeros((1, 3, 64, 64)), "float32 images; got float64"),
        (np.zeros((1, 4, 64, 64), np.float32), r"\(N, 3, H, W\); got \(1, 4, 64, 64\)"),
        (np.zeros((0, 3, 64, 64), np.float32), "got"),
    ):
        with pytest.raises(ValueError, match=message):
            net(image)
    with pytest.raises(ValueError, match="without a classifier"):
        net.classify("photo.png")
    static = tbx.deploy_model(maps_model(), EXAMPLE, "ncnn", dynamic=False)
    assert len(static(EXAMPLE)) == 3
    with pytest.raises(ValueError, match=r"for the shape \(1, 3, 64, 64\) alone.*dynamic=True"):
        static(torch.zeros(1, 3, 96, 64))


def test_a_runtime_that_is_not_installed_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find("ncnn"), "runs", ("ncnn_of_tomorrow",), raising=False)
    with pytest.raises(ImportError, match=r"needs ncnn_of_tomorrow; run: pip install 'timm-backbones-ext\[ncnn\]'"):
        tbx.deploy_model(maps_model(), EXAMPLE, "ncnn")
    assert "ncnn" not in [each.name for each in making.installed()]


def test_damaged_folders_are_errors_and_another_machine_is_named(deployed, tmp_path: Path, caplog) -> None:
    with pytest.raises(FileNotFoundError, match="holds no deployed model"):
        load(tmp_path)
    folder = load(deployed("ncnn")).save(tmp_path / "net")
    facts = json.loads((folder / FACTS).read_text())
    for changed, message in (({"format": 9}, "expected format 1; got 9"), ({"runtime": "x"}, "unknown runtime 'x'")):
        (folder / FACTS).write_text(json.dumps({**facts, **changed}))
        with pytest.raises((tbx.BackboneError, ValueError), match=message):
            load(folder)
    (folder / FACTS).write_text("{")
    with pytest.raises(tbx.BackboneError, match="damaged"):
        load(folder)
    (folder / FACTS).write_text(json.dumps({**facts, "machine": {**facts["machine"], "processor": "Z80"}}))
    load(folder)
    assert "chosen on Z80" in caplog.text
    (folder / "model.ncnn.param").write_text("no net")
    with pytest.raises(tbx.BackboneError, match="ncnn cannot load its file"):
        load(folder)


def test_every_runtime_is_found_by_its_name() -> None:
    assert [find(name).name for name in RUNTIMES] == list(RUNTIMES)
