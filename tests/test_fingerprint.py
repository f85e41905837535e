"""Changes of a model that a fingerprint shows, and changes that it ignores on purpose."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.fingerprints import digest

NAMES = ["resnet18", "convnext_atto", "efficientnet_b0"]


def exchanged(model: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A copy with some modules replaced."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if (new := make(module)) is not None:
            model.set_submodule(name, new)
    return model


def activation(new: Callable[[], nn.Module]) -> Callable[[nn.Module], nn.Module | None]:
    return lambda module: new() if type(module).__name__ in ("ReLU", "GELU", "SiLU", "GELUTanh") else None


@pytest.mark.parametrize("name", NAMES)
def test_relu_for_gelu_is_seen_in_an_untrained_model(name: str) -> None:
    model = timm.create_model(name)
    report = tbx.compare(exchanged(model, activation(nn.GELU)), exchanged(model, activation(nn.ReLU)))
    assert not report.same
    assert "act" in report.first


@pytest.mark.parametrize("name", NAMES)
def test_tanh_gelu_for_gelu_is_seen_in_an_untrained_model(name: str) -> None:
    model = timm.create_model(name)
    tanh = exchanged(model, activation(lambda: nn.GELU(approximate="tanh")))
    report = tbx.compare(exchanged(model, activation(nn.GELU)), tanh)
    assert not report.same
    assert report.largest > 10 * report.tolerance


@pytest.mark.parametrize("name", NAMES)
def test_a_norm_eps_times_100_is_seen_in_an_untrained_model(name: str) -> None:
    model = timm.create_model(name)
    changed = copy.deepcopy(model)
    for module in changed.modules():
        if hasattr(module, "eps"):
            module.eps *= 100
    assert not tbx.compare(model, changed).same_function


@pytest.mark.parametrize("name", NAMES)
def test_one_weight_out_of_millions_is_seen_and_named(name: str) -> None:
    model = timm.create_model(name)
    changed = copy.deepcopy(model)
    key, parameter = [(k, p) for k, p in changed.named_parameters() if p.ndim == 4][5]
    with torch.no_grad():
        parameter.flatten()[7] += 1
    assert tbx.compare(model, changed).first == key.removesuffix(".weight")


@pytest.mark.parametrize("name", NAMES)
def test_threads_memory_formats_and_float64_are_the_same_function(name: str) -> None:
    model = testing.calibrate(timm.create_model(name))
    expected = tbx.fingerprint(model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reports = [tbx.compare(expected, tbx.fingerprint(model))]
    finally:
        torch.set_num_threads(threads)
    reports.append(tbx.compare(expected, copy.deepcopy(model).to(memory_format=torch.channels_last)))
    assert all(report.same for report in reports), reports
    double = tbx.compare(expected, copy.deepcopy(model).double())
    assert double.same_function
    assert double.structure == ("keys, shapes or dtypes differ",)
    assert max(report.largest for report in (*reports, double)) < double.tolerance / 5


@pytest.mark.parametrize("name", NAMES)
def test_it_is_some_kilobytes_and_repeats_to_the_bit(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name)
    first, second = tbx.fingerprint(model), tbx.fingerprint(model)
    assert torch.equal(first.statistics, second.statistics)
    first.save(tmp_path / "first")
    second.save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert (tmp_path / "first").stat().st_size < 32_000
    loaded = tbx.Fingerprint.load(tmp_path / "first")
    assert tbx.compare(loaded, first).largest == 0
    assert loaded.digest == first.digest


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 0}, {"in_chans": 5}, {"features_only": True}])
def test_every_kind_of_model_has_one_and_is_left_as_it_is(kwargs: dict) -> None:
    model = timm.create_model("ext_resnet18", **kwargs).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = tbx.fingerprint(model)
    assert {"level 0", "level 4"} <= set(found.names)
    assert ("logits" in found.names) == (kwargs.keys() <= {"in_chans"})
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_features_only_and_no_classifier_are_the_same_function() -> None:
    features = timm.create_model("ext_resnet18", features_only=True)
    full = timm.create_model("ext_resnet18", num_classes=0)
    full.load_state_dict(features.full_model().state_dict())
    assert tbx.compare(features, full).same


def test_an_edited_model_is_the_same_function_with_more_modules() -> None:
    base = testing.calibrate(timm.create_model("resnet18"))
    report = tbx.compare(base, tbx.edit(copy.deepcopy(base), "dcn"))
    assert report.same_function
    assert not report.same
    assert "conv_offset" in report.structure[0]
    assert set(report.levels) == {*(f"level {i}" for i in range(5)), "logits"}


def test_not_a_number_is_a_difference_and_not_a_pass() -> None:
    model = timm.create_model("resnet18")
    with torch.no_grad():
        model.conv1.weight[0] = float("nan")
    assert not tbx.compare(model, model).same


def test_sixteen_bit_weights_are_compared_in_float32() -> None:
    model = timm.create_model("ext_resnet18").bfloat16()
    assert tbx.compare(model, model.float()).same_function


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_a_file_that_is_no_fingerprint_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="x is no fingerprint"):
        tbx.Fingerprint.load(tmp_path / "x")


def test_a_model_that_is_not_timms_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a timm model"):
        tbx.fingerprint(nn.Conv2d(3, 3, 3))


def test_a_newer_format_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    tbx.fingerprint(timm.create_model("resnet18")).save(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {"statistics": file.get_tensor("statistics")}
    save_file(tensors, path, metadata={**metadata, "format": "2"})
    with pytest.raises(ValueError, match=r"expected fingerprint format 1; got 2. Upgrade the package"):
        tbx.Fingerprint.load(path)


def test_a_difference_of_three_in_ten_thousand_is_seen_and_one_in_a_million_is_not() -> None:
    model = testing.calibrate(timm.create_model("resnet18"))
    for factor, same in ((1 + 3e-4, False), (1 + 1e-6, True)):
        changed = copy.deepcopy(model)
        with torch.no_grad():
            changed.conv1.weight.mul_(factor)
        report = tbx.compare(model, changed)
        assert report.same == same, report
        assert report.tolerance == 1e-4


def test_a_padding_that_differs_on_odd_sides_alone_is_seen() -> None:
    """TensorFlow's 'same' padding and its fixed form agree on sides that 32 divides."""
    model = testing.calibrate(timm.create_model("tf_efficientnet_b0")).eval()
    changed = tbx.edit(copy.deepcopy(model), "static_pad").eval()
    even = testing.image(model, 64, 64)
    torch.testing.assert_close(changed(even), model(even))
    assert not tbx.compare(model, changed).same_function


def test_the_digest_covers_keys_shapes_and_dtypes() -> None:
    model = timm.create_model("resnet18", num_classes=4)
    others = [copy.deepcopy(model) for _ in range(3)]
    others[0].fc.weight = nn.Parameter(others[0].fc.weight.detach().reshape(512, 4))
    others[1].fc.weight = nn.Parameter(others[1].fc.weight.detach().double())
    others[2].fc.register_buffer("scale", torch.ones(1))
    digests = {digest(item) for item in (model, *others)}
    assert len(digests) == 4


class Twice(nn.Module):
    """The smallest timm-like model that uses one module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()
        self.second = 1.0
        self.in_chans, self.num_classes, self.feature_info = 3, 0, []
        self.pretrained_cfg: dict = {}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.act(self.conv(x)) * self.second))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_features(x)


def test_a_module_that_is_used_twice_is_described_twice() -> None:
    model = Twice()
    found = tbx.fingerprint(model)
    assert {"conv", "conv'", "act", "act'"} <= set(found.names)
    changed = copy.deepcopy(model)
    changed.second = 2.0
    report = tbx.compare(model, changed)
    assert report.first == "conv'", "the first use is the same"
