"""Pyramids: what detectors ask of them, on images of any size."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, box_iou, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import timm_backbones_ext as tbx
from timm_backbones_ext import testing

SMALLEST = ["ext_resnet18", "ext_convnext_atto", "ext_efficientnet_b0"]
DETECTORS = {"retinanet": RetinaNet, "fcos": FCOS}


def target(side: int) -> list[dict[str, Tensor]]:
    return [{"boxes": torch.tensor([[4.0, 6.0, side - 9.0, side - 4.0]]), "labels": torch.tensor([1])}]


@pytest.mark.parametrize("size", [(64, 64), (97, 65), (100, 75), (33, 71)])
@pytest.mark.parametrize("levels", ["P2-P5", "P3-P6", "P3-P7"])
@pytest.mark.parametrize("name", [*SMALLEST, "ext_vgg11_bn"])
def test_odd_sizes_give_every_map_its_stride(name: str, levels: str, size: tuple[int, int]) -> None:
    if name == "ext_vgg11_bn":
        with pytest.raises(ValueError, match=r"the stride of the last one can be two levels more|no maps of stride"):
            tbx.pyramid(name, levels="P3-P8")
    made = tbx.pyramid(name, 16, levels).eval()
    maps = made(torch.randn(1, 3, *size))
    first, last = int(levels[1]), int(levels[-1])
    assert list(maps) == [f"p{level}" for level in range(first, last + 1)]
    assert made.strides == tuple(2**level for level in range(first, last + 1))
    for level, stride in zip(maps.values(), made.strides, strict=True):
        assert level.shape[1] == made.out_channels == 16
        for side, pixels in zip(level.shape[-2:], size, strict=True):
            assert pixels // stride <= max(side, 1) <= -(-pixels // stride) + 1
    padded = made(tbx.pad_to(torch.randn(1, 3, *size), made.size_divisibility))
    for level, stride in list(zip(padded.values(), made.strides, strict=True))[:3]:
        for side, pixels in zip(level.shape[-2:], size, strict=True):
            assert side == -(-pixels // made.size_divisibility) * made.size_divisibility // stride


def test_trap_7_maps_that_are_rounded_down_are_mixed_as_they_are() -> None:
    x = torch.randn(1, 3, 100, 75)
    made = tbx.pyramid("ext_convnext_atto", 16, "P2-P5")
    assert [tuple(level.shape[-2:]) for level in made(x).values()] == [(25, 18), (12, 9), (6, 4), (3, 2)]
    assert made.size_divisibility == 32
    assert tbx.pad_to(x, 32).shape == (1, 3, 128, 96)
    assert torch.equal(tbx.pad_to(x, 32)[..., :100, :75], x)


def test_the_maps_are_those_of_torchvisions_pyramid_on_the_backbones_maps() -> None:
    made = tbx.pyramid("ext_resnet18", 8, "P3-P7").eval()
    theirs = FeaturePyramidNetwork([128, 256, 512], 8, LastLevelP6P7(8, 8)).eval()
    theirs.load_state_dict(made.fpn.state_dict())
    x = torch.randn(2, 3, 96, 64)
    expected = theirs(dict(zip(("p3", "p4", "p5"), made.body(x), strict=True)))
    got = made(x)
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_detectron2_style_code_reads_channels_and_strides() -> None:
    made = tbx.pyramid("ext_resnet18", 32, "P2-P6")
    assert made.output_shape()["p6"] == tbx.Level(4, "p6", channels=32, stride=64, height=None, width=None)
    raw = tbx.pyramid("ext_resnet18", levels="P3-P5", neck=None)
    assert raw.fpn is None
    assert raw.out_channels == (128, 256, 512)
    assert [level.channels for level in raw.output_shape().values()] == [128, 256, 512]
    assert [level.shape[1] for level in raw(torch.randn(1, 3, 64, 64)).values()] == [128, 256, 512]


def test_an_output_stride_gives_the_last_map_of_each_stride() -> None:
    made = tbx.pyramid("ext_resnet18", 8, "P3-P5", output_stride=16)
    assert made.body.feature_info.channels() == [128, 512]
    assert [level.shape[-1] for level in made(torch.randn(1, 3, 64, 64)).values()] == [8, 4, 2]


def test_a_detector_finds_a_box_where_it_is_in_an_image_whose_sides_no_stride_divides() -> None:
    """As the detector pads it, to 128x96 pixels, and as `pad_to` does."""
    sizes = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "min_size": 75, "max_size": 500}
    net = FCOS(tbx.pyramid("ext_convnext_atto", 32, "P3-P5"), num_classes=2, anchor_generator=sizes, **plain)
    box = torch.tensor([[41.0, 58.0, 69.0, 95.0]])
    image = 0.2 * torch.rand(3, 100, 75)
    image[:, 58:95, 41:69] += 0.8
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(30):
        losses = net.train()([image], [{"boxes": box, "labels": torch.tensor([1])}])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    (found,) = net.eval()([image])
    assert box_iou(found["boxes"][:1], box) > 0.8
    net.transform.min_size = (96,)  # no image is resized
    (again,) = net([tbx.pad_to(image, net.backbone.size_divisibility)])
    torch.testing.assert_close(clip_boxes_to_image(again["boxes"][:1], (100, 75)), found["boxes"][:1])


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("detector", DETECTORS)
def test_torchvisions_one_stage_detectors_take_it_as_it_is(detector: str, name: str) -> None:
    net = DETECTORS[detector](tbx.pyramid(name, 64, freeze_at=2), num_classes=3, min_size=96, max_size=96)
    losses = net.train()([torch.rand(3, 96, 80)], target(80))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert {"boxes", "scores", "labels"} <= net.eval()([torch.rand(3, 90, 77)])[0].keys()


def test_faster_rcnn_takes_it_under_the_names_that_it_expects() -> None:
    made = tbx.pyramid("ext_resnet18", 16, "P2-P6", edits="dcn", names=["0", "1", "2", "3", "pool"])
    net = FasterRCNN(made, num_classes=3, min_size=96, max_size=96)
    losses = net.train()([torch.rand(3, 96, 80)], target(80))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert any(p.grad.any() for p in made.body.parameters() if p.grad is not None)
    assert "boxes" in net.eval()([torch.rand(3, 90, 77)])[0]


def test_arguments_become_edits_of_the_backbone() -> None:
    made = tbx.pyramid("ext_resnet18", 8, "P3-P5", frozen_bn=True, in_chans=5, edits="eca", drop_path_rate=0.1)
    assert made.body.full_model().edits == ("eca", "in_chans(n=5)", "frozen_bn")
    assert tbx.pyramid("ext_convnext_atto", 8, "P3-P5", out_norm=True).body.full_model().edits == ("out_norm",)
    assert tbx.pyramid("ext_resnet18", 8, "P3-P5", in_chans=1)(torch.randn(1, 1, 64, 64))["p3"].shape[1] == 8


@pytest.mark.parametrize("kind", ["full", "features", "stock"])
def test_a_live_model_gives_the_pyramid_of_its_name_and_is_left_as_it_is(kind: str) -> None:
    name = "resnet18" if kind == "stock" else "ext_resnet18"
    model = testing.calibrate(timm.create_model(name, features_only=kind == "features")).eval()
    before, x = str(model), torch.randn(1, 3, 64, 64)
    full = model.full_model() if kind == "features" else model
    expected = tbx.pyramid("ext_resnet18", 8, "P3-P6").eval()
    expected.body.load_state_dict(full.state_dict())
    made = tbx.pyramid(model, 8, "P3-P6", freeze_at=2, frozen_bn=True, edits="dcn").eval()
    made.fpn.load_state_dict(expected.fpn.state_dict())
    for level, wanted in zip(made(x).values(), expected(x).values(), strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)
    assert made.body.full_model().edits == ("dcn", "frozen_bn")
    assert str(model) == before
    assert model.layer4[0].conv1.weight is made.body["layer4"][0].conv1.weight if kind != "features" else True


def test_a_live_model_takes_no_arguments_of_creation() -> None:
    model = timm.create_model("ext_resnet18")
    with pytest.raises(ValueError, match="drop_path_rate, pretrained are for a backbone that is created by name"):
        tbx.pyramid(model, drop_path_rate=0.1, pretrained=True)
    for other in (nn.Linear(1, 1), timm.create_model("resnet18", features_only=True)):
        with pytest.raises(ValueError, match="expected a name, a full timm model or a features_only model of an ext_"):
            tbx.pyramid(other)


@pytest.mark.parametrize("name", SMALLEST)
def test_five_channels_keep_what_rgb_computed(name: str) -> None:
    stock = testing.calibrate(timm.create_model(name)).eval()
    source = {"state_dict": stock.state_dict()}
    rgb, five = (
        tbx.pyramid(name, 8, "P3-P5", in_chans=n, pretrained=True, pretrained_cfg_overlay=source).double().eval()
        for n in (3, 5)
    )
    five.fpn.load_state_dict(rgb.fpn.state_dict())
    x = torch.randn(1, 5, 64, 64, dtype=torch.float64)
    for got, expected in zip(five(x).values(), rgb(x[:, :3]).values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SMALLEST)
def test_gradient_checkpointing_drop_path_and_channels_last_go_with_it(name: str) -> None:
    made = tbx.pyramid(name, 8, "P3-P6", drop_path_rate=0.2).train()
    x = torch.randn(2, 3, 64, 64)
    grads = []
    for recompute in (False, True):
        made.set_grad_checkpointing(recompute)
        made.zero_grad()
        torch.manual_seed(1)
        sum(level.square().mean() for level in copy.deepcopy(made)(x).values())  # the statistics as before
        twin = copy.deepcopy(made)
        torch.manual_seed(1)
        sum(level.square().mean() for level in twin(x).values()).backward()
        grads.append([parameter.grad for parameter in twin.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-3, atol=1e-5)
    assert any("DropPath" in type(module).__name__ for module in made.modules())
    expected = made.eval()(x)
    got = made.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    for key, level in got.items():
        torch.testing.assert_close(level, expected[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALLEST)
def test_trap_9_under_autocast_every_map_of_a_pyramid_is_bfloat16(name: str) -> None:
    """The maps of a ConvNeXt itself are float32, in timm as here, since its residuals are; the neck casts them."""
    made = tbx.pyramid(name, 8, "P3-P6").eval()
    stock = timm.create_model(name.removeprefix("ext_"), features_only=True, out_indices=(-3, -2, -1)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert {level.dtype for level in made(x).values()} == {torch.bfloat16}
        for body in (made.body, stock):
            raw = {level.dtype for level in body(x)}
            assert raw == {torch.float32 if "convnext" in name else torch.bfloat16}


def test_it_can_be_copied_and_pickled() -> None:
    made = tbx.pyramid("ext_resnet18", 8, "P3-P5", freeze_at=2).eval()
    x = torch.randn(1, 3, 64, 64)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(twin(x)["p3"], made(x)["p3"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": "P7-P3"}, "the finest first; got 'P7-P3'"),
        ({"levels": "3-7"}, "written 'P3-P7'"),
        ({"levels": "P0-P5"}, r"no maps of stride \[1\]; it has \[2, 4, 8, 16, 32\]"),
        ({"levels": "P6-P7"}, "no maps of stride 64"),
        ({"levels": "P3-P8"}, "two levels more than 32; got 256"),
        ({"levels": "P3-P6", "neck": None}, "can be 32, since there is no neck"),
        ({"neck": "nas"}, r"neck must be one of \('fpn', 'pan', 'bifpn', None\); got 'nas'"),
        ({"out_indices": (1, 9)}, r"sets out_indices itself; say which maps by levels="),
        ({"names": ["a", "a", "b", "c", "d"]}, "5 different names"),
        ({"freeze_at": 6}, "from 0 to 5; got 6"),
        ({"out_norm": True}, "'out_norm' is for convnext"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tbx.pyramid("ext_resnet18", 8, **kwargs)


@pytest.mark.parametrize(
    ("backbone", "kwargs", "message"),
    [
        ("ext_resnt18", {}, "unknown model 'ext_resnt18'; did you mean ext_resnet18, "),
        ("ext_resnet18.a1_in1", {}, "unknown tag of ext_resnet18: 'a1_in1'; did you mean 'a1_in1k'?"),
        ("resnet18", {"edits": "dcn"}, "resnet18 does not take edits; ext_resnet18 does"),
        ("resnet18", {"frozen_bn": True}, "resnet18 does not take edits; ext_resnet18 does"),
    ],
)
def test_a_backbone_that_is_not_known_is_an_error_that_names_what_is_near(
    backbone: str, kwargs: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tbx.pyramid(backbone, 8, **kwargs)


def test_a_folder_takes_edits(tmp_path: Path) -> None:
    tbx.save(timm.create_model("ext_resnet18", num_classes=3), tmp_path)
    made = tbx.pyramid(f"local-dir:{tmp_path}", 8, "P3-P5", edits="eca", pretrained=True)
    assert made.body.full_model().edits == ("eca",)


def test_padding_asks_for_a_number_of_pixels() -> None:
    with pytest.raises(ValueError, match="positive whole number of pixels; got 0"):
        tbx.pad_to(torch.zeros(3, 8, 8), 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("backbone", "neck", "edits"),
    [
        ("ext_resnet18", "fpn", "dcn(stages=[4])"),
        ("ext_resnet18", "pan", None),
        ("ext_convnext_atto", "bifpn", None),  # whose maps are rounded down
    ],
)
def test_an_exported_pyramid_takes_images_of_any_size_in_onnx_runtime(
    backbone: str, neck: str, edits: str | None, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = tbx.pyramid(backbone, 16, "P3-P7", neck, edits=edits).eval()
    for key, parameter in made.named_parameters():
        if "conv_offset" in key:
            nn.init.normal_(parameter, std=0.02)  # larger ones magnify the rounding of float32, in torch too
    testing.calibrate(made.body)
    sides = {2: torch.export.Dim("height", min=64, max=512), 3: torch.export.Dim("width", min=64, max=512)}
    example = torch.randn(1, 3, 128, 160)
    file = tmp_path / "pyramid.onnx"
    options = {"dynamic_shapes": (sides,), "output_names": made.names, "opset_version": 19, "dynamo": True}
    torch.onnx.export(made, (example,), file, **options)
    session = onnxruntime.InferenceSession(file)
    for size in ((128, 160), (96, 224), (97, 131), (100, 75)):
        x = torch.randn(1, 3, *size)
        got = session.run(made.names, {session.get_inputs()[0].name: x.numpy()})
        assert testing.largest([torch.from_numpy(level) for level in got], list(made(x).values())) <= 1e-4
