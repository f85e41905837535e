"""The necks beside torchvision's FPN, against the papers' formulas written out here.

tests/clients compares them with effdet's and mmdetection's own.
"""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import timm_backbones_ext as tbx
from timm_backbones_ext.detection.necks import NECKS, BiFpn, Pan

DETECTORS = {"retinanet": RetinaNet, "fcos": FCOS}
OURS = ["pan", "bifpn"]


def targets() -> list[dict[str, Tensor]]:
    return [{"boxes": torch.tensor([[4.0, 6.0, 71.0, 76.0]]), "labels": torch.tensor([1])}] * 2


def steps(detector: nn.Module) -> None:
    """Losses whose gradients reach every tensor that learns, then boxes."""
    losses = detector.train()(list(torch.rand(2, 3, 96, 80)), targets())
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    without = [key for key, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert {"boxes", "scores", "labels"} <= detector.eval()([torch.rand(3, 90, 77)])[0].keys()


@pytest.mark.parametrize(
    ("name", "levels"),
    [*(("ext_convnext_atto", levels) for levels in ("P2-P5", "P3-P6", "P3-P7")), ("ext_resnet18", "P3-P7")],
)
@pytest.mark.parametrize("neck", OURS)
def test_maps_of_every_size_are_as_large_as_those_of_an_fpn_and_all_parameters_learn(
    neck: str, name: str, levels: str
) -> None:
    made, plain = (tbx.pyramid(name, 16, levels, kind).eval() for kind in (neck, "fpn"))
    for size in ((100, 75), (33, 71), (97, 65)):
        x = torch.randn(1, 3, *size)
        maps, expected = made(x), plain(x)
        assert {key: level.shape for key, level in maps.items()} == {key: m.shape for key, m in expected.items()}
        assert list(maps) == list(expected)
    assert (made.out_channels, made.strides, made.output_shape()) == (16, plain.strides, plain.output_shape())
    sum(level.square().mean() for level in made.train()(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [key for key, p in made.named_parameters() if p.grad is None] == []
    assert [key for key, p in made.fpn.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("neck", OURS)
def test_torchvisions_one_stage_detectors_take_it_as_it_is(neck: str, detector: str) -> None:
    made = tbx.pyramid("ext_resnet18", 64, neck=neck, freeze_at=2)
    steps(DETECTORS[detector](made, num_classes=3, min_size=80, max_size=96))


@pytest.mark.parametrize("neck", OURS)
def test_faster_rcnn_takes_it_under_the_names_that_it_expects(neck: str) -> None:
    names = ["0", "1", "2", "3", "pool"]
    made = tbx.pyramid("ext_convnext_atto", 16, "P2-P6", neck, names=names)
    steps(FasterRCNN(made, num_classes=3, min_size=80, max_size=96))


def test_a_pan_whose_way_back_adds_nothing_is_torchvisions_fpn() -> None:
    pan, fpn = Pan([8, 12, 16], 6, LastLevelP6P7(6, 6)), FeaturePyramidNetwork([8, 12, 16], 6, LastLevelP6P7(6, 6))
    keys = {**fpn.state_dict(), **{k.replace("extra_blocks", "coarser"): v for k, v in fpn.state_dict().items()}}
    missing = pan.load_state_dict(keys, strict=False).missing_keys
    assert {key.partition(".")[0] for key in missing} == {"halve", "smooth"}
    for halve, smooth in zip(pan.halve, pan.smooth, strict=True):
        nn.init.zeros_(halve.weight)
        nn.init.dirac_(smooth.weight)
    x = {str(i): torch.randn(1, width, side, side) for i, (width, side) in enumerate([(8, 25), (12, 12), (16, 6)])}
    got, expected = pan(x), fpn(x)
    assert list(got) == list(expected)
    for name, level in expected.items():
        torch.testing.assert_close(got[name], level)
    nn.init.dirac_(pan.halve[0].weight)
    changed = pan(x)
    assert [name for name, level in expected.items() if not torch.allclose(changed[name], level)] == ["1"]


def randomised(neck: nn.Module) -> dict[str, Tensor]:
    """A neck in double precision and eval mode whose tensors are all random; its state dict."""
    for key, value in neck.double().eval().state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 1e-3, 2e-2) if "running_var" in key else nn.init.normal_(value, std=0.5)
    return neck.state_dict()


@pytest.mark.parametrize("sides", [(16, 8, 4), (25, 13, 7), (25, 12, 6)])
def test_a_pan_computes_what_its_paper_says(sides: tuple[int, ...]) -> None:
    """PANet, section 3.1: P from coarse to fine, then N(i + 1) = conv(P(i + 1) + conv of stride 2 of N(i))."""
    neck = Pan([8, 12, 16], 6)
    held = randomised(neck)
    maps = [torch.randn(2, w, s, s, dtype=torch.float64) for w, s in zip((8, 12, 16), sides, strict=True)]

    def conv(x: Tensor, name: str, **kwargs: int) -> Tensor:
        return F.conv2d(x, held[f"{name}.weight"], held[f"{name}.bias"], **kwargs)

    inner = [conv(x, f"inner_blocks.{i}.0") for i, x in enumerate(maps)]
    for i in (1, 0):
        inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[-2:], mode="nearest")
    fine = [conv(x, f"layer_blocks.{i}.0", padding=1) for i, x in enumerate(inner)]
    expected, way = [fine[0]], fine[0]
    for i in (1, 2):
        down = conv(way, f"halve.{i - 1}", padding=1, stride=2)
        way = fine[i] + down[..., : sides[i], : sides[i]]
        expected.append(conv(way, f"smooth.{i - 1}", padding=1))
    got = neck({str(i): level for i, level in enumerate(maps)})
    for level, wanted in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(level, wanted)


@pytest.mark.parametrize("widths", [(8, 8, 8), (6, 8, 12)])
def test_a_round_of_a_bifpn_computes_what_its_paper_says(widths: tuple[int, ...]) -> None:
    """EfficientDet, section 3: equation 2 for the shares, the two sums of section 3.3 for the maps in the middle."""
    neck = BiFpn(widths, 8, repeats=1)
    held = randomised(neck)
    p3, p4, p5 = maps = [torch.randn(2, w, s, s, dtype=torch.float64) for w, s in zip(widths, (12, 6, 3), strict=True)]

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = held[f"{name}.running_mean"], held[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, held[f"{name}.weight"], held[f"{name}.bias"], eps=1e-3)

    def mix(name: str, *parts: tuple[Tensor, str]) -> Tensor:
        """Parts come with what fits the last one to the others: "up", "down" or nothing."""
        share = held[f"{name}.share"].clamp(min=0)
        total = 0
        for i, (x, fit) in enumerate(parts):
            if x.shape[1] != 8:
                lateral = f"{name}.laterals.{i}"
                x = norm(F.conv2d(x, held[f"{lateral}.0.weight"]), f"{lateral}.1")
            x = F.interpolate(x, scale_factor=2) if fit == "up" else F.max_pool2d(x, 3, 2, 1) if fit == "down" else x
            total = total + share[i] / (share.sum() + 1e-4) * x
        total = total * total.sigmoid()
        total = F.conv2d(total, held[f"{name}.depthwise.weight"], padding=1, groups=8)
        return norm(F.conv2d(total, held[f"{name}.pointwise.weight"]), f"{name}.norm")

    middle = mix("rounds.0.to_fine.0", (p4, ""), (p5, "up"))
    fine = mix("rounds.0.to_fine.1", (p3, ""), (middle, "up"))
    out = mix("rounds.0.to_coarse.0", (p4, ""), (middle, ""), (fine, "down"))
    expected = [fine, out, mix("rounds.0.to_coarse.1", (p5, ""), (out, "down"))]
    got = neck({str(i): level for i, level in enumerate(maps)})
    for level, wanted in zip(got.values(), expected, strict=True):
        torch.testing.assert_close(level, wanted)


def test_coarser_maps_of_a_bifpn_are_maxima_over_three_positions() -> None:
    neck = BiFpn([8, 8], 8, extra=2, repeats=0).eval()
    x = {"a": torch.randn(1, 8, 16, 16), "b": torch.randn(1, 8, 8, 8)}
    first = F.max_pool2d(x["b"], 3, 2, 1)
    expected = [x["a"], x["b"], first, F.max_pool2d(first, 3, 2, 1)]
    assert all(torch.equal(got, wanted) for got, wanted in zip(neck(x).values(), expected, strict=True))
    assert len(BiFpn([8, 8], 8).rounds) == 3


def test_a_bifpn_leaves_out_what_has_no_share() -> None:
    """Both ways, in a single round: the middle map of three goes to the others by its neighbours' shares only."""
    neck = BiFpn([8, 8, 8], 8, repeats=1).eval()
    x = {str(side): torch.randn(1, 8, side, side) for side in (8, 4, 2)}
    before = neck(x)
    with torch.no_grad():
        for mix in (*neck.rounds[0].to_fine, *neck.rounds[0].to_coarse):
            mix.share[-1] = -1.0
    alone = neck(x)
    changed = neck({**x, "4": torch.randn(1, 8, 4, 4)})
    assert all((before[name] != alone[name]).any() for name in x)
    assert [name for name in x if not torch.equal(alone[name], changed[name])] == ["4"]


@pytest.mark.parametrize("neck", NECKS)
def test_names_that_a_neck_gives_to_its_own_maps_are_free_for_others(neck: str) -> None:
    names = ["pool", "p7", "p6", "coarser3", "0"]
    made = tbx.pyramid("ext_resnet18", 8, neck=neck, names=names).eval()
    assert [level.shape[-1] for level in made(torch.randn(1, 3, 128, 128)).values()] == [16, 8, 4, 2, 1]
    assert list(made(torch.randn(1, 3, 128, 128))) == names


@pytest.mark.parametrize("neck", OURS)
def test_what_holds_for_a_pyramid_holds_with_every_neck(neck: str) -> None:
    made = tbx.pyramid("ext_resnet18", 8, neck=neck, freeze_at=2).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = made(x)
    for twin in (
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        tbx.convert_sync_batchnorm(copy.deepcopy(made)),
    ):
        assert all(torch.equal(level, expected[key]) for key, level in twin(x).items())
    with torch.autocast("cpu", torch.bfloat16):
        assert {level.dtype for level in made(x).values()} == {torch.bfloat16}
    still = [key for key, p in made.fpn.named_parameters() if not p.requires_grad]
    assert still == []  # freeze_at is about the backbone
    groups = tbx.param_groups(made, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert all(found[id(p)] == (1.0, 0.1 if p.ndim > 1 else 0.0) for p in made.fpn.parameters())


def test_a_bifpn_with_group_norms_trains_on_one_image() -> None:
    made = tbx.pyramid("ext_resnet18", 64, neck="bifpn").train()
    x = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made(x)
    tbx.convert_groupnorm(made.fpn)
    sum(level.square().mean() for level in made(x).values()).backward()
    assert all(p.grad is not None for p in made.parameters())


def test_a_bifpn_of_one_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs two levels or more; got one"):
        tbx.pyramid("ext_resnet18", 8, "P5-P5", "bifpn")
