"""Nets for 32x32 images: those of the paper, with everything that other names have."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.edits import EDITS, parse_edits
from timm_backbones_ext.models.ext_cifar import CifarResNet
from timm_backbones_ext.registry import BUILT_IN

NAMES = sorted(name for name in BUILT_IN if name.endswith("_cifar"))
SMALL = ["ext_resnet20_cifar", "ext_plainnet20_cifar"]
EXAMPLES = [item for cls in EDITS.values() if "resnet" in cls.families for item in parse_edits(cls.example)]
ONCE = """
import timm, torch
from pathlib import Path
torch.set_num_threads(1)
torch.manual_seed(0)
net = timm.create_model("ext_resnet1202_cifar").train()
loss = net(torch.randn(2, 3, 32, 32)).square().mean()
loss.backward()
assert loss.isfinite() and all(p.grad.isfinite().all() for p in net.parameters())
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(int(peak.split()[1]) * 1024)  # of this process; getrusage begins with the peak of its parent
"""


@pytest.mark.parametrize("name", NAMES)
def test_the_name_says_how_many_layers_have_weights(name: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == int(re.search(r"\d+", name).group())


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]
)
def test_parameters_are_those_of_table_6(depth: int, millions: float) -> None:
    with torch.device("meta"):
        net = timm.create_model(f"ext_resnet{depth}_cifar")
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05 if depth > 100 else 0.01)


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_a_plain_twin_has_the_same_tensors(depth: int) -> None:
    with torch.device("meta"):
        nets = [timm.create_model(f"ext_{kind}{depth}_cifar") for kind in ("resnet", "plainnet")]
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in nets]
    assert shapes[0] == shapes[1]


def test_a_plain_net_is_its_layers_one_after_another() -> None:
    net = testing.calibrate(timm.create_model("ext_plainnet20_cifar")).double().eval()
    x = image = testing.image(net, 32, 32)
    x = net.bn1(net.conv1(x)).relu()
    for block in (*net.layer1, *net.layer2, *net.layer3):
        x = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())).relu()
    torch.testing.assert_close(net(image), net.fc(x.mean((2, 3))), rtol=1e-12, atol=1e-12)


def test_shortcuts_take_every_second_pixel_and_pad_channels_with_zeros() -> None:
    net = timm.create_model("ext_resnet20_cifar", zero_init_last=True).eval()  # shortcuts alone are left
    x = testing.image(net, 32, 32)
    stem, one, two, three = net.forward_intermediates(x, intermediates_only=True)
    assert torch.equal(one, stem)
    assert torch.equal(two[:, :16], stem[:, :, ::2, ::2])
    assert torch.equal(three[:, :16], stem[:, :, ::4, ::4])
    assert not two[:, 16:].any()
    assert not three[:, 16:].any()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "getter", "fx"])
def test_feature_maps_are_the_models_own(name: str, feature_cls: str) -> None:
    net = testing.calibrate(timm.create_model(name, num_classes=0)).eval()
    wrapped = timm.create_model(name, features_only=True, feature_cls=feature_cls, out_indices=(3, 0, 2)).eval()
    wrapped.load_state_dict(net.state_dict())
    x = testing.image(net, 32, 48)
    maps = wrapped(x)
    expected = net.forward_intermediates(x, intermediates_only=True)
    for got, index in zip(maps.values() if isinstance(maps, dict) else maps, (3, 0, 2), strict=True):
        torch.testing.assert_close(got, expected[index])
    assert wrapped.feature_info.channels() == [64, 16, 32]
    assert wrapped.feature_info.reduction() == [4, 1, 2]


def test_a_dilated_third_stage_has_the_stride_that_it_says() -> None:
    net = timm.create_model("ext_resnet20_cifar", output_stride=2).eval()
    maps = net.forward_intermediates(testing.image(net, 32, 32), intermediates_only=True)
    assert [32 // level.shape[-1] for level in maps] == [info["reduction"] for info in net.feature_info] == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="output_stride must be 2 or 4"):
        timm.create_model("ext_resnet20_cifar", output_stride=8)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("item", EXAMPLES, ids=str)
def test_edits_of_resnet_are_the_identity(name: str, item: tbx.Edit) -> None:
    testing.check_identity(name, item)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_net_comes_back_strictly_and_verified(name: str, tmp_path: Path) -> None:
    net = testing.calibrate(timm.create_model(name, num_classes=3, edits="dcn(stages=[3])")).eval()
    tbx.save(net, tmp_path / "net")
    back = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    x = testing.image(net, 32, 32)
    assert type(back) is CifarResNet
    assert back.edits == ("dcn(stages=(3,))",)
    assert torch.equal(back(x), net(x))
    assert tbx.verify(tmp_path / "net").same


def test_a_pushed_net_is_pulled_by_its_name(local_hub: object) -> None:
    net = testing.calibrate(timm.create_model("ext_plainnet20_cifar", num_classes=3)).eval()
    tbx.push_to_hub(net, "you/plainnet20")
    back = timm.create_model("hf-hub:you/plainnet20", pretrained=True, features_only=True).eval()
    x = testing.image(net, 32, 32)
    for got, expected in zip(back(x), net.forward_intermediates(x, intermediates_only=True), strict=True):
        assert torch.equal(got, expected)
    assert tbx.verify("you/plainnet20").same


def test_weights_of_a_plain_form_load_into_an_edited_one() -> None:
    plain = testing.calibrate(timm.create_model("ext_resnet20_cifar")).eval()
    edited = timm.create_model("ext_resnet20_cifar", edits="rep").eval()
    edited.load_state_dict(plain.state_dict())
    x = testing.image(plain, 32, 32)
    torch.testing.assert_close(edited(x), plain(x))


@pytest.mark.parametrize("name", SMALL)
def test_a_net_that_is_initialised_afresh_is_alive(name: str) -> None:
    net = timm.create_model(name, edits="eca").to_empty(device="cpu")
    net.init_weights()
    x = testing.image(net, 32, 32, batch=4)
    net(x).square().mean().backward()
    assert all(p.grad.norm() > 0 for key, p in net.named_parameters() if ".se." not in key)


def test_timm_cannot_be_given_what_it_lacks() -> None:
    from timm_backbones_ext.saving.identity import identify
    from timm_backbones_ext.saving.plain import as_plain_timm

    with pytest.raises(ValueError, match="timm has no architecture 'ext_resnet20_cifar'"):
        as_plain_timm(identify(timm.create_model("ext_resnet20_cifar")))


@pytest.mark.slow
def test_1202_layers_run_forward_and_backward_in_less_than_2_gb() -> None:
    """Finite from end to end, in a process of its own; its peak memory includes torch."""
    run = subprocess.run([sys.executable, "-c", ONCE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2e9


def test_pruning_keeps_the_classifier_behind_the_last_level_and_drops_what_is_not_asked_for() -> None:
    whole, part = (timm.create_model("ext_resnet20_cifar") for _ in range(2))
    assert whole.prune_intermediate_layers([3], prune_head=False) == [3]
    assert whole.num_classes == 10
    assert part.prune_intermediate_layers([1]) == [1]
    assert len(part.layer1) == 3
    assert not len(part.layer2)
    assert part.num_features == 16
