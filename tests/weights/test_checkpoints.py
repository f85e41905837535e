"""Checkpoints of other projects. torchvision is installed and compared with.

The other projects are not installed: names of their tensors are written down here, and what they compute is re-created
in a few lines of our own where names do not suffice.
"""

import copy
import itertools
import re
from collections import Counter

import pytest
import timm
import torch
import torchvision
from donors import filled, same, theirs
from torch import Tensor, nn
from torch.nn import functional as F

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.weights.formats import FORMATS

RESNETS = [f"resnet{n}" for n in (18, 34, 50, 101, 152)]
RESNETS += ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"]
CONVNEXTS = [f"convnext_{size}" for size in ("tiny", "small", "base", "large")]
EFFICIENTNETS = [f"efficientnet_b{n}" for n in range(8)] + [f"efficientnetv2_{size}" for size in "sml"]
VGGS = [f"vgg{n}{bn}" for n, bn in itertools.product((11, 13, 16, 19), ("", "_bn"))]


@pytest.mark.parametrize("name", RESNETS + CONVNEXTS + EFFICIENTNETS + VGGS)
def test_every_tensor_of_torchvisions_models_has_a_name_here_and_back(name: str) -> None:
    state = theirs(name).state_dict()
    ours = tbx.convert(state, target="timm", arch=name)
    back = tbx.convert(ours, source="timm", target="torchvision", arch=name)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}


KINDS = ("resnet18", "resnet50", "resnext50_32x4d", "convnext_tiny", "efficientnet_b0", "efficientnet_b5")
KINDS += ("efficientnetv2_s", "vgg11", "vgg11_bn")


@pytest.mark.parametrize("name", KINDS)
def test_a_model_with_torchvisions_weights_gives_torchvisions_outputs(name: str) -> None:
    reference = filled(theirs(name))
    model = timm.create_model(name).eval()
    tbx.load_checkpoint(model, reference.state_dict())
    x = torch.randn(1, 3, *((224, 224) if "vgg" in name else (64, 64)))
    with torch.inference_mode():
        got, wanted = model(x), reference(x)
    assert wanted.abs().max() > 1e-3
    if "vgg" in name:  # a linear layer there, the same sum as a conv here
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    else:
        assert torch.equal(got, wanted)


@pytest.mark.slow
def test_the_larger_models_with_torchvisions_weights_give_torchvisions_outputs() -> None:
    """In one test, one after the other, since two of these nets need much memory."""
    larger, x = [n for n in RESNETS + CONVNEXTS + EFFICIENTNETS if n not in KINDS], torch.randn(1, 3, 64, 64)
    for name in larger:
        reference = filled(theirs(name))
        with torch.device("meta"):
            model = timm.create_model(name).eval()
        tbx.load_checkpoint(model.to_empty(device="cpu"), reference.state_dict())
        with torch.inference_mode():
            wanted = reference(x)
            assert 1e-3 < wanted.abs().max() < torch.inf, name
            assert torch.equal(model(x), wanted), name


def layers(model: nn.Module) -> Counter[tuple]:
    """The settings that change a net's function and are not tensors: strides, pads, groups and epsilons."""
    found: Counter[tuple] = Counter()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            found[module.kernel_size, module.stride, module.padding, module.dilation, module.groups] += 1
        elif "Norm" in type(module).__name__ and hasattr(module, "eps"):
            found["norm", module.weight.shape, module.eps] += 1
    return found


@pytest.mark.parametrize("name", RESNETS + CONVNEXTS + EFFICIENTNETS)
def test_a_model_with_torchvisions_weights_has_torchvisions_layers(name: str) -> None:
    """Without data: the larger members of a kind differ from its smallest in numbers of layers and channels alone."""
    reference = theirs(name)
    with torch.device("meta"):
        model = timm.create_model(name)
    tbx.load_checkpoint(model, reference.state_dict())
    assert layers(model) == layers(reference)


ROUND_TRIPS = [
    ("torchvision", "resnet18"),
    ("torchvision", "convnext_tiny"),
    ("torchvision", "efficientnet_b0"),
    ("torchvision", "efficientnetv2_s"),
    ("torchvision", "vgg11_bn"),
    ("meta", "convnext_atto"),
    ("meta", "convnext_tiny"),
    ("meta", "convnextv2_atto"),
    ("meta-detection", "convnextv2_atto"),
    ("meta-detection", "ext_atto_out_norm"),
    ("meta-fcmae", "convnextv2_atto"),
    ("lukemelas", "tf_efficientnet_b0"),
    ("lukemelas", "ext_tf_efficientnet_b1"),
    ("lukemelas", "tf_efficientnet_lite0"),
    ("mmcv", "ext_resnet18_dcn"),
    ("mmcv", "resnet18"),
]


@pytest.fixture(scope="module", autouse=True)
def _out_norm() -> None:
    if not timm.is_model("ext_atto_out_norm"):
        tbx.register_variant("ext_atto_out_norm", base="convnext_atto", edits="out_norm")


@pytest.mark.parametrize(("name", "arch"), ROUND_TRIPS)
def test_there_and_back_is_the_identity_for_keys_and_bytes(name: str, arch: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch)
    state = filled(model).state_dict()
    there = tbx.convert(state, source="timm", target=name, arch=arch)
    headless = {key: value for key, value in state.items() if not key.startswith(("head.", "fc."))}
    wanted = headless if name in ("mmcv", "meta-detection", "meta-fcmae") else state
    assert same(tbx.convert(there, source=name, target="timm", arch=arch), wanted)
    assert same(
        tbx.convert(tbx.convert(there, source=name, target="timm", arch=arch), source="timm", target=name, arch=arch),
        there,
    )
    if arch != "ext_resnet18_dcn":  # its names are those of mmcv
        assert same(tbx.convert(there, target="timm", arch=arch), wanted)


def test_every_format_is_tried_there_and_back() -> None:
    assert {name for name, _ in ROUND_TRIPS} == FORMATS.keys() - {"timm"}


LUKEMELAS = {  # the first three blocks of efficientnet-b0 in efficientnet_pytorch 0.7.1, by that project's own names
    "_conv_stem.weight": (32, 3, 3, 3),
    "_bn0.weight": (32,),
    "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
    "_blocks.0._bn1.running_var": (32,),
    "_blocks.0._se_reduce.weight": (8, 32, 1, 1),
    "_blocks.0._se_expand.bias": (32,),
    "_blocks.0._project_conv.weight": (16, 32, 1, 1),
    "_blocks.0._bn2.weight": (16,),
    "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
    "_blocks.1._bn0.weight": (96,),
    "_blocks.1._depthwise_conv.weight": (96, 1, 3, 3),
    "_blocks.1._bn1.weight": (96,),
    "_blocks.1._se_reduce.weight": (4, 96, 1, 1),
    "_blocks.1._project_conv.weight": (24, 96, 1, 1),
    "_blocks.1._bn2.weight": (24,),
    "_blocks.2._expand_conv.weight": (144, 24, 1, 1),
    "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
    "_conv_head.weight": (1280, 320, 1, 1),
    "_bn1.weight": (1280,),
    "_fc.weight": (1000, 1280),
}
META_V2 = {  # of convnextv2_atto in Meta's ConvNeXt-V2, by that project's own names
    "downsample_layers.0.0.weight": (40, 3, 4, 4),
    "downsample_layers.0.1.bias": (40,),
    "downsample_layers.1.0.weight": (40,),
    "downsample_layers.1.1.weight": (80, 40, 2, 2),
    "stages.0.0.dwconv.weight": (40, 1, 7, 7),
    "stages.0.0.norm.weight": (40,),
    "stages.0.0.pwconv1.weight": (160, 40),
    "stages.0.0.grn.gamma": (1, 1, 1, 160),
    "stages.0.0.grn.beta": (1, 1, 1, 160),
    "stages.0.0.pwconv2.weight": (40, 160),
    "stages.3.1.pwconv2.bias": (320,),
    "norm.weight": (320,),
    "head.weight": (1000, 320),
}
META_FCMAE = {  # of its sparse encoder, MinkowskiEngine's names within
    "downsample_layers.0.0.weight": (40, 3, 4, 4),
    "downsample_layers.1.0.ln.weight": (40,),
    "downsample_layers.1.1.kernel": (4, 40, 80),
    "downsample_layers.1.1.bias": (1, 80),
    "stages.0.0.dwconv.kernel": (49, 40),
    "stages.0.0.dwconv.bias": (1, 40),
    "stages.0.0.norm.ln.weight": (40,),
    "stages.0.0.pwconv1.linear.weight": (160, 40),
    "stages.0.0.grn.gamma": (1, 160),
    "stages.0.0.pwconv2.linear.bias": (40,),
}


@pytest.mark.parametrize(
    ("name", "arch", "known"),
    [
        ("lukemelas", "tf_efficientnet_b0", LUKEMELAS),
        ("meta", "convnextv2_atto", META_V2),
        ("meta-fcmae", "convnextv2_atto", META_FCMAE),
        ("meta-detection", "ext_atto_out_norm", {"norm0.weight": (40,), "norm3.bias": (320,)}),
        ("mmcv", "ext_resnet18_dcn", {"layer2.0.conv2.conv_offset.weight": (27, 128, 3, 3), "bn1.weight": (64,)}),
    ],
)
def test_names_of_projects_that_are_not_installed_are_theirs(name: str, arch: str, known: dict) -> None:
    with torch.device("meta"):
        state = timm.create_model(arch).state_dict()
    got = {key: tuple(value.shape) for key, value in tbx.convert(state, source="timm", target=name, arch=arch).items()}
    assert {key: got.get(key) for key in known} == known


class MetaBlock(nn.Module):
    """Our own re-creation of a block of Meta's ConvNeXt V2, in its names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.grn = nn.Module()
        self.grn.gamma, self.grn.beta = (nn.Parameter(torch.zeros(1, 1, 1, 4 * width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        spread = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = self.grn.gamma * (y * (spread / (spread.mean(-1, keepdim=True) + 1e-6))) + self.grn.beta + y
        return x + self.pwconv2(y).permute(0, 3, 1, 2)


class MetaConvNeXt(nn.Module):
    """Our own re-creation of Meta's ConvNeXt V2, with blocks of it in stages of depth 2, 2, 6, 2."""

    def __init__(self) -> None:
        super().__init__()
        widths, depths = (40, 80, 160, 320), (2, 2, 6, 2)
        first = nn.Sequential(nn.Conv2d(3, 40, 4, 4), timm.layers.LayerNorm2d(40, eps=1e-6))
        rest = [
            nn.Sequential(timm.layers.LayerNorm2d(a, eps=1e-6), nn.Conv2d(a, b, 2, 2))
            for a, b in itertools.pairwise(widths)
        ]
        self.downsample_layers = nn.ModuleList([first, *rest])
        self.stages = nn.ModuleList(
            nn.Sequential(*[MetaBlock(width) for _ in range(depth)])
            for width, depth in zip(widths, depths, strict=True)
        )
        self.norm, self.head = nn.LayerNorm(320, eps=1e-6), nn.Linear(320, 10)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((-2, -1))))


def test_metas_convnext_v2_re_created_gives_the_outputs_of_timms_with_its_weights() -> None:
    with torch.device("meta"):
        reference = MetaConvNeXt()
    reference = filled(reference).double()
    model = timm.create_model("convnextv2_atto", num_classes=10).double().eval()
    assert tbx.load_checkpoint(model, reference.state_dict()).source == "meta"
    x = testing.image(model, 64, 64)
    torch.testing.assert_close(model(x), reference(x), rtol=1e-10, atol=1e-10)


def test_sparse_kernels_hold_columns_before_rows() -> None:
    dense = torch.randn(40, 1, 7, 7)
    model = timm.create_model("convnextv2_atto").eval()
    state = {**model.state_dict(), "stages.0.blocks.0.conv_dw.weight": dense}
    sparse = tbx.convert(state, source="timm", target="meta-fcmae", arch="convnextv2_atto")
    kernel = sparse["stages.0.0.dwconv.kernel"]
    assert all(
        torch.equal(kernel[7 * column + row], dense[:, 0, row, column]) for row in range(7) for column in range(7)
    )
    down, weight = sparse["downsample_layers.1.1.kernel"], state["stages.1.downsample.1.weight"]
    assert all(torch.equal(down[2 * column + row].T, weight[:, :, row, column]) for row in (0, 1) for column in (0, 1))


def mmcvs_dcn(x: Tensor, state: dict[str, Tensor], stride: int) -> Tensor:
    """Our own re-creation of mmcv's ModulatedDeformConv2dPack."""
    out = F.conv2d(x, state["conv_offset.weight"], state["conv_offset.bias"], stride, 1)
    y, x_, mask = out.chunk(3, dim=1)
    offset = torch.cat((y, x_), dim=1)
    return torchvision.ops.deform_conv2d(x, offset, state["weight"], None, stride, 1, 1, mask.sigmoid())


def test_deformable_convs_of_mmcv_re_created_compute_the_same() -> None:
    with torch.device("meta"):
        donor = timm.create_model("ext_resnet18_dcn")
    state = {key: value for key, value in filled(donor).state_dict().items() if not key.startswith("fc.")}
    detector = {**{f"backbone.{key}": value for key, value in state.items()}, "neck.fpn.weight": torch.zeros(3)}
    model = timm.create_model("ext_resnet18_dcn", num_classes=0).eval()
    loaded = tbx.load_checkpoint(model, {"state_dict": detector, "meta": {"epoch": 12}})
    assert loaded.source == "mmcv"
    assert loaded.notes[:2] == ("took the entry 'state_dict'", "took what is under 'backbone.', without neck")
    part = {k.removeprefix("layer2.1.conv2."): v for k, v in state.items() if k.startswith("layer2.1.conv2.")}
    x = torch.randn(1, 128, 8, 8)
    torch.testing.assert_close(model.layer2[1].conv2(x), mmcvs_dcn(x, part, 1), rtol=1e-5, atol=1e-4)


def test_deformable_convs_that_may_be_mmcvs_or_ours_are_asked_about() -> None:
    model = timm.create_model("ext_resnet18_dcn", num_classes=0)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(tbx.WeightsError, match=r"differ by a factor of two; say source='timm'.*source='mmcv'"):
        tbx.load_checkpoint(model, state)
    assert tbx.load_checkpoint(model, state, source="timm").source == "timm"
    assert model.layer2[1].conv2.weight.equal(state["layer2.1.conv2.weight"])
    tbx.load_checkpoint(model, state, source="mmcv")
    assert model.layer2[1].conv2.weight.equal(state["layer2.1.conv2.weight"] / 2)
    assert model.layer1[1].conv2.weight.equal(state["layer1.1.conv2.weight"])


def test_a_checkpoint_loads_under_edits_by_checkpoint_path_and_load_checkpoint_alike(tmp_path) -> None:
    reference = filled(theirs("resnet18"))
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    first = timm.create_model("ext_resnet18_dcn", checkpoint_path=str(tmp_path / "resnet18.pth")).eval()
    second = timm.create_model("ext_resnet18_dcn").eval()
    tbx.load_checkpoint(second, tmp_path / "resnet18.pth")
    assert same(first.state_dict(), second.state_dict())
    assert not first.layer2[0].conv2.conv_offset.weight.any()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(first(x), reference(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "edits"),
    [("convnext_tiny", "kernel, eca"), ("efficientnet_b0", "kernel"), ("resnet18", "eca, in_chans(4)")],
)
def test_torchvisions_weights_load_into_edited_models(name: str, edits: str) -> None:
    reference = filled(theirs(name))
    plain, edited = timm.create_model(name), timm.create_model(f"ext_{name}", edits=edits)
    for model in (plain, edited):
        tbx.load_checkpoint(model, reference.state_dict())
    x = testing.image(edited, 64, 64)
    with torch.inference_mode():
        got, wanted = edited.eval()(x), plain.eval()(x[:, :3])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("features_only", [False, True])
def test_detection_backbones_of_metas_convnext_load_with_their_norms(features_only: bool) -> None:
    with torch.device("meta"):
        donor = timm.create_model("ext_atto_out_norm")
    state = tbx.convert(filled(donor).state_dict(), source="timm", target="meta-detection", arch="ext_atto_out_norm")
    model = timm.create_model("ext_atto_out_norm", **({"features_only": True} if features_only else {"num_classes": 0}))
    loaded = tbx.load_checkpoint(model, {"module.backbone." + key: value for key, value in state.items()})
    assert loaded.source == "meta-detection"
    full = model.full_model() if features_only else model
    assert full.out_norms["3"].weight.equal(state["norm3.weight"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "backbone.", "encoder."])
def test_wrappers_are_peeled_off_with_a_word(wrapper: str, prefix: str) -> None:
    model = timm.create_model("resnet18")
    state = {prefix + key: value.clone() for key, value in model.state_dict().items()}
    loaded = tbx.load_checkpoint(model, {wrapper: state, "epoch": 3, "optimizer": {}})
    assert loaded.source == "timm"
    assert repr(wrapper) in loaded.notes[0]
    assert all(part in str(loaded) for part in re.findall(r"\w+\.", prefix))


def test_weights_averaged_over_training_are_taken_first() -> None:
    model = timm.create_model("resnet18")
    plain = model.state_dict()
    averaged = {key: torch.full_like(value, 2) for key, value in plain.items()}
    tbx.load_checkpoint(model, {"state_dict": plain, "state_dict_ema": averaged})
    assert (model.fc.bias == 2).all()


@pytest.mark.slow
def test_the_eps_of_torchvisions_larger_efficientnets_is_saved(tmp_path) -> None:
    model = timm.create_model("ext_efficientnet_b5", num_classes=10)
    with torch.device("meta"):
        reference = torchvision.models.efficientnet_b5(num_classes=10)
    assert "eps 0.001" in str(tbx.load_checkpoint(model, filled(reference).state_dict()))
    tbx.save(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert {m.eps for m in again.modules() if hasattr(m, "running_var")} == {1e-3}


def test_counts_of_batches_that_old_checkpoints_lack_start_at_zero() -> None:
    model = timm.create_model("resnet18")
    state = {k: v.clone() for k, v in model.state_dict().items() if "num_batches" not in k}
    assert "20 counts of batches are missing and start at 0" in str(tbx.load_checkpoint(model, state))


def test_half_precision_is_cast_by_load_checkpoint_and_kept_by_convert() -> None:
    model = timm.create_model("resnet18")
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    assert "float16 was cast to the model's float32" in str(tbx.load_checkpoint(model, half))
    assert model.fc.weight.dtype == torch.float32
    assert tbx.convert(half, target="torchvision", arch="resnet18")["fc.weight"].dtype == torch.float16
