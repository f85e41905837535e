"""fuse: the same function for every family, edit, wrapper and pyramid, with less in the model."""

import copy

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing
from timm_backbones_ext.deploy.fusion import folding, fused_layers, rewriting, winograd
from timm_backbones_ext.edits import EDITS, parse_edits

FAMILIES = ["test_resnet", "test_convnext", "test_efficientnet", "vgg11_bn"]
EXAMPLES = [item for _, cls in sorted(EDITS.items()) for item in parse_edits(cls.example)]
EDITED = [(testing.base_for(family, item), item) for item in EXAMPLES for family in item.families]
WRAPPERS = ["list", "dict", "hook", "getter", "fx"]


def maps(out: object) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return list(out.values() if isinstance(out, dict) else out)


def edited(base: str, *items: object) -> nn.Module:
    """A model with edits that do something: their tensors are no longer those of the identity."""
    torch.manual_seed(0)
    model = tbx.edit(testing.trained(base, num_classes=10), *items)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def errors(model: nn.Module, fused: nn.Module, *shape: int) -> tuple[float, float]:
    """Relative difference to the model in float64: of the fused model, and of the model in its own dtype."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(shape[0], first.in_channels, *shape[1:], generator=torch.Generator().manual_seed(1))
    x = x.to(first.weight.dtype)
    with torch.no_grad():
        exact = maps(copy.deepcopy(model).double().eval()(x.double()))
        return tuple(testing.largest([m.double() for m in maps(each(x))], exact) for each in (fused, model))


def agrees(model: nn.Module, fused: nn.Module) -> bool:
    """On other images than those that `fuse` looks at: odd sides, two at a time; with fused operators."""
    assert fused.fused.way != "torch's own convs", fused.fused
    found = [errors(model, fused, *shape) for shape in ((1, 75, 50), (2, 64, 64))]
    return all(mine <= max(1e-5, 5 * own) for mine, own in found)


@pytest.mark.parametrize("base", FAMILIES)
def test_a_fused_model_computes_what_the_model_computes(base: str) -> None:
    model = testing.trained(base, num_classes=10)
    keys, fused = model.state_dict().keys(), tbx.fuse(model)
    assert agrees(model, fused)
    assert model.state_dict().keys() == keys  # a copy was changed
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize(("base", "item"), EDITED, ids=str)
def test_an_edited_model_can_be_fused(base: str, item: tbx.Edit) -> None:
    model = edited(base, item)
    fused = tbx.fuse(model)
    assert agrees(model, fused)
    stay = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    named = {*fused.fused.folded, *fused.fused.left}
    if item.merges():
        stay = {name for name in stay if ".branches." not in name}
    assert all(any(name == n or name.startswith(f"{n}.") for n in named) for name in stay), stay - named


@pytest.mark.parametrize(("base", "item"), EDITED, ids=str)
def test_folding_is_exact(base: str, item: tbx.Edit) -> None:
    model = edited(base, item).double()
    assert errors(model, tbx.fuse(model), 1, 75, 50)[0] <= 1e-10


@pytest.mark.parametrize("base", ["ext_test_resnet", "ext_test_convnext", "ext_test_efficientnet", "ext_vgg11_bn"])
@pytest.mark.parametrize("kind", WRAPPERS)
def test_every_feature_wrapper_can_be_fused(base: str, kind: str) -> None:
    full = testing.trained(base.removeprefix("ext_"), num_classes=0)
    model = tbx.wrap(full, kind, (2, 0, 2)).eval()
    fused = tbx.fuse(model)
    assert agrees(model, fused)
    x = torch.randn(1, 3, 64, 64)
    assert type(fused(x)) is type(model(x))
    assert fused.feature_info.channels() == model.feature_info.channels()


@pytest.mark.parametrize("neck", [None, "fpn", "pan", "bifpn"])
def test_a_pyramid_can_be_fused_and_stays_a_backbone_of_detectors(neck: str | None) -> None:
    torch.manual_seed(0)
    model = tbx.pyramid("ext_test_resnet", 16, "P2-P6" if neck else "P2-P5", neck).eval()
    fused = tbx.fuse(model)
    x = torch.randn(1, 3, 75, 50)
    assert list(fused(x)) == list(model(x))
    assert agrees(model, fused)
    assert (fused.out_channels, fused.strides) == (model.out_channels, model.strides)
    assert fused.output_shape() == model.output_shape()


def test_a_detector_takes_a_fused_backbone() -> None:
    from torchvision.models.detection import FCOS

    torch.manual_seed(0)
    detector = FCOS(tbx.pyramid("ext_test_resnet", 64), num_classes=3, min_size=64, max_size=64).eval()
    x = [torch.rand(3, 64, 64)]
    with torch.no_grad():
        expected = detector.head(maps(detector.backbone(torch.stack(x))))
        detector.backbone = tbx.fuse(detector.backbone)
        got = detector.head(maps(detector.backbone(torch.stack(x))))
        assert len(detector(x)) == 1
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)


def test_a_stock_timm_feature_model_can_be_fused() -> None:
    model = timm.create_model("test_efficientnet", features_only=True).eval()
    assert agrees(model, tbx.fuse(model))


@pytest.mark.parametrize("base", ["test_resnet", "resnet18", "efficientnet_b0"])
def test_sums_and_activations_run_inside_convs(base: str) -> None:
    graph = tbx.fuse(timm.create_model(base, num_classes=10).eval()).graph
    called = [str(graph.get_submodule(n.target)) if n.op == "call_module" else str(n.target) for n in graph.graph.nodes]
    assert not [name for name in called if name.startswith(("ReLU", "SiLU", "<built-in function"))]


def test_modules_behind_the_last_map_are_gone() -> None:
    model = tbx.wrap(testing.trained("test_resnet", num_classes=0), "getter", (0, 1)).eval()
    assert not [name for name, _ in tbx.fuse(model).named_modules() if "layer3" in name or "layer4" in name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_than_float32_are_folded_and_nothing_more(dtype: torch.dtype) -> None:
    model = testing.trained("test_resnet", num_classes=10).to(dtype)
    fused = tbx.fuse(model)
    assert fused(torch.randn(1, 3, 64, 64, dtype=dtype)).dtype is dtype
    assert fused.fused.folded
    assert not fused.fused.rewritten


def test_a_fused_model_can_be_copied_moved_loaded_and_pickled(tmp_path) -> None:
    model = testing.trained("test_convnext", num_classes=10)
    fused, x = tbx.fuse(model), torch.randn(1, 3, 64, 64)
    expected = fused(x)
    torch.save(fused, tmp_path / "fused.pt")
    again = torch.load(tmp_path / "fused.pt", weights_only=False)
    assert torch.equal(again(x), expected)
    assert torch.equal(copy.deepcopy(fused)(x), expected)
    torch.testing.assert_close(copy.deepcopy(fused).double()(x.double()).float(), expected, rtol=1e-4, atol=1e-5)
    other = tbx.fuse(testing.calibrate(testing.create("test_convnext", num_classes=10), seed=1).eval())
    other(x)
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(x), expected)


def test_timms_reparameterize_model_merges_the_branches_of_rep() -> None:
    model = edited("test_resnet", "rep")
    merged = reparameterize_model(model)
    assert any(".branches." in key for key in model.state_dict())
    assert not any(".branches." in key for key in merged.state_dict())
    assert errors(model, merged, 1, 75, 50)[0] <= 1e-5


class Odd(nn.Module):
    """A gate that nobody can trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 1e9 else x * 0.5


def test_a_module_that_cannot_be_followed_stays_and_is_named() -> None:
    model = testing.trained("test_resnet", num_classes=10)
    model.layer2[0].act1 = Odd()
    fused = tbx.fuse(model.eval())
    assert agrees(model, fused)
    assert "layer2.0.act1" in fused.fused.left
    assert "layer2.0.act1" in str(fused.fused)


def test_a_forward_that_cannot_be_followed_is_an_error() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"cannot follow the forward of Strange.*It takes timm models"):
        tbx.fuse(Strange().eval())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.train(), r"eval mode.*call model.eval\(\)"),
        (lambda m: m.to("meta"), "on the device 'meta': load weights first"),
        (lambda m: m.get_submodule("conv1.0" if hasattr(m.conv1, "0") else "layer1").half() and m, "of one dtype"),
        (lambda m: nn.init.constant_(m.layer1[0].bn1.weight, float("nan")) is None or m, "NaN.*layer1.0.bn1.weight"),
        (tbx.fuse, "fused already"),
        (lambda m: nn.ReLU().eval(), "with weights; got ReLU"),
    ],
)
def test_a_model_that_cannot_be_fused_is_an_error_that_says_why(change, message: str) -> None:
    model = testing.trained("test_resnet", num_classes=10)
    changed = change(model)
    with pytest.raises(ValueError, match=message):
        tbx.fuse(changed if isinstance(changed, nn.Module) else model)


def test_a_fused_model_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="train the model that it was made of"):
        tbx.fuse(testing.trained("test_resnet", num_classes=10)).train()


def test_a_wrong_fold_is_an_error_and_nothing_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_affine", lambda norm: (norm.weight.detach(), norm.bias.detach()))
    with pytest.raises(tbx.BackboneError, match="changes what ResNet computes"):
        tbx.fuse(testing.trained("test_resnet", num_classes=10))


def test_wrong_fused_operators_are_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_layers, "NONE", ("relu", [], ""))
    monkeypatch.setattr(rewriting, "SUMS", ())
    model = testing.trained("test_resnet", num_classes=10)
    fused = tbx.fuse(model)
    assert fused.fused.way == "torch's own convs"
    assert errors(model, fused, 1, 75, 50)[0] <= 1e-5
    assert not fused.fused.rewritten
    assert "left: oneDNN's fused operators: changes what the model computes by" in str(fused.fused)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 9), (3, 50)])
@pytest.mark.parametrize("act", [None, nn.ReLU(), nn.SiLU()], ids=str)
def test_winograds_way_gives_the_same_maps(tile: int, height: int, width: int, act: nn.Module | None) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 48, 3, padding=1).requires_grad_(False)
    layer = winograd.WinogradConv2d(fused_layers.FusedConv2d(conv, act), tile)
    layer.always = True
    x, other = (
        torch.randn(1, width_, height, width).contiguous(memory_format=torch.channels_last) for width_ in (32, 48)
    )
    for added in (None, other):
        exact = conv.double()(x.double()) if added is None else conv.double()(x.double()) + added
        exact = exact if act is None else act(exact)
        conv.float()
        sums = added is None or not isinstance(act, nn.SiLU)  # oneDNN's sum takes a ReLU after it, or nothing
        got = layer(x, added) if sums else layer.tiled(x, added)
        assert testing.largest([got.double()], [exact]) <= 5e-6


def test_winograds_way_is_measured_once_for_sizes_of_an_order() -> None:
    model = testing.trained("test_resnet", num_classes=10)
    fused = tbx.fuse(model)
    convs = [module for module in fused.modules() if isinstance(module, winograd.WinogradConv2d)]
    assert convs
    for side in (64, 160, 64, 160):
        fused(torch.randn(1, 3, side, side))
    assert all(len(conv.faster) == 2 for conv in convs)
    assert not [m for m in tbx.fuse(model, winograd=False).modules() if isinstance(m, winograd.WinogradConv2d)]


def test_weights_are_packed_for_each_order_of_size_and_the_last_three_are_kept() -> None:
    model = testing.trained("ext_test_resnet", num_classes=10)
    fused = tbx.fuse(model)
    first = next(module for module in fused.modules() if isinstance(module, fused_layers.FusedConv2d))
    for side in (32, 64, 128, 256, 64):
        assert errors(model, fused, 1, side, side)[0] <= 1e-5
    assert [size.bit_length() for size in (32 * 32, 64 * 64, 128 * 128, 256 * 256)] == [11, 13, 15, 17]
    assert list(first.packings) == [13, 15, 17]
    assert copy.deepcopy(first).packings is None
