"""Two edits on one model: the second must not undo what the first left behind."""

import pytest
import timm
import torch
from torch import nn

import timm_backbones_ext as tbx
from timm_backbones_ext import testing


def trained(model: nn.Module, steps: int = 2) -> nn.Module:
    """The model in eval mode after SGD steps, so that branches and gates add something."""
    optimizer = torch.optim.SGD([p for p in model.train().parameters() if p.requires_grad], lr=0.05)
    x = testing.image(model, 64, 64, batch=4)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
        optimizer.step()
    return model.eval()


def base(name: str) -> nn.Module:
    return testing.calibrate(testing.create(name, num_classes=10)).double()


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("convnext_atto", "dilated_reparam", "output_stride(8)"),
        ("convnext_atto", "output_stride(16)", "dilated_reparam"),
        ("convnext_atto", "dilated_reparam(stages=[4])", "kernel(9)"),
        ("resnet18", "rep", "frozen_bn"),
        ("vgg11_bn", "rep", "in_chans(5)"),
        ("vgg11_bn", "rep", "in_chans(1)"),
    ],
)
def test_branches_merge_to_the_same_function_after_a_second_edit(name: str, first: str, second: str) -> None:
    model = trained(tbx.edit(base(name), first, second))
    x = testing.image(model, 64, 96)
    expected = testing.outputs(model, x)
    merged = tbx.merge(model)
    assert not any("branches" in key for key in merged.state_dict())
    assert testing.largest(testing.outputs(merged, x), expected) <= 1e-9


def test_branches_are_dilated_with_the_conv_beside_them() -> None:
    plain = trained(tbx.edit(base("convnext_atto"), "dilated_reparam"))
    x = testing.image(plain, 64, 64)
    expected = testing.outputs(plain, x)
    dilated = tbx.edit(plain, "output_stride(8)").eval()
    branch = dilated.stages[3].blocks[0].conv_dw.branches["k5d1"].conv
    assert branch.dilation == (4, 4)
    assert testing.largest(testing.outputs(dilated, x), expected, sampling=True) <= 1e-9


@pytest.mark.parametrize(("edit", "part"), [("rep", "branches"), ("cbam", "se.spatial")])
def test_norms_of_branches_and_gates_go_on_learning_beside_frozen_ones(edit: str, part: str) -> None:
    model = tbx.edit(base("resnet18"), edit, "frozen_bn")
    norms = [m for name, m in model.named_modules() if part in name and isinstance(m, nn.BatchNorm2d)]
    assert norms
    before = [norm.weight.clone() for norm in norms]
    trained(model)
    assert not any(torch.equal(norm.weight, old) for norm, old in zip(norms, before, strict=True))
    assert not any(name.startswith("bn1") for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "edit", "conv"),
    [
        ("convnext_atto", "kernel", "stages.0.blocks.0.conv_dw"),
        ("efficientnet_b0", "kernel", "blocks.1.0.conv_dw"),
        ("resnet18", "in_chans(5)", "conv1"),
        ("resnet18", "in_chans(1)", "conv1"),
        ("resnet18", "dcn", "layer2.0.conv2"),
        ("resnet18", "sac", "layer2.0.conv2"),
        ("convnext_atto", "overlap_stem", "stem.0"),
    ],
)
def test_a_frozen_conv_stays_frozen(name: str, edit: str, conv: str) -> None:
    model = testing.create(name)
    model.get_submodule(conv).weight.requires_grad_(False)
    tbx.edit(model, edit)
    assert not model.get_submodule(conv).weight.requires_grad


def test_frozen_branches_merge_into_frozen_convs() -> None:
    model = tbx.edit(testing.create("resnet18"), "rep")
    model.layer1[0].conv1.weight.requires_grad_(False)
    merged = tbx.merge(model)
    assert not merged.layer1[0].conv1.weight.requires_grad
    assert merged.layer1[1].conv1.weight.requires_grad


@pytest.mark.parametrize("edit", ["dcn", "sac", "rep"])
def test_a_conv_that_pads_otherwise_is_refused_and_nothing_changes(edit: str) -> None:
    model = timm.create_model("resnet18")
    conv = nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect", bias=False)
    model.layer2[1].conv2 = conv
    with pytest.raises(ValueError, match="expected a conv with zero padding"):
        tbx.edit(model, edit)
    assert model.layer2[1].conv2 is conv
    assert not hasattr(model, "edits")


@pytest.mark.parametrize("edit", ["dcn", "sac", "eca", "se"])
@pytest.mark.parametrize("stages", [(3, 3), (0,), (5,), ()])
def test_a_stage_that_is_not_there_or_is_named_twice_is_an_error(edit: str, stages: tuple) -> None:
    with pytest.raises(ValueError, match=r"stages must be some of \(1, 2, 3, 4\), each once; got"):
        tbx.edit(timm.create_model("resnet18"), f"{edit}(stages={stages!r})")


@pytest.mark.parametrize(
    ("edit", "stages"),
    [("dcn", {2, 3, 4}), ("sac", {2, 3, 4}), ("eca", {1, 2, 3, 4}), ("se", {1, 2, 3, 4}), ("cbam", {1, 2, 3, 4})],
)
def test_without_stages_an_edit_changes_those_of_its_paper(edit: str, stages: set[int]) -> None:
    plain = set(timm.create_model("resnet18").state_dict())
    new = set(tbx.edit(timm.create_model("resnet18"), edit).state_dict()) - plain
    assert {int(key[len("layer")]) for key in new} == stages


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0", "vgg11_bn"])
def test_one_channel_gives_what_the_base_gives_for_grey_images(name: str) -> None:
    plain = base(name).eval()
    x = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    expected = testing.outputs(plain, x.expand(-1, 3, -1, -1))
    grey = tbx.edit(plain, "in_chans(1)")
    assert grey.in_chans == 1
    assert testing.largest(testing.outputs(grey, x), expected) <= 1e-12
    testing.check_edit("in_chans(1)") if name == "resnet18" else None


@pytest.mark.parametrize("name", ["ext_resnet18", "ext_convnext_atto"])
@pytest.mark.parametrize("n", [1, 5])
def test_in_chans_of_create_model_is_the_edit(name: str, n: int, tmp_path) -> None:
    rgb = testing.calibrate(timm.create_model(name, num_classes=10)).eval()
    source = {"state_dict": dict(rgb.state_dict()), "num_classes": 10}
    made = timm.create_model(name, in_chans=n, num_classes=10, pretrained=True, pretrained_cfg_overlay=source).eval()
    assert made.edits == (f"in_chans(n={n})",)
    x = torch.randn(1, n, 64, 64)
    seen = x.expand(-1, 3, -1, -1) if n == 1 else x[:, :3]
    torch.testing.assert_close(made(x), rgb(seen), rtol=1e-4, atol=1e-4)
    tbx.save(made, tmp_path)
    for kwargs in ({}, {"in_chans": n}):
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **kwargs).eval()
        assert again.edits == made.edits
        torch.testing.assert_close(again(x), made(x))
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=7, num_classes=3)
    assert other.edits == (f"in_chans(n={n})", "in_chans(n=7)")
    assert torch.equal(
        other.get_submodule(made.pretrained_cfg["first_conv"]).weight[:, n:],
        torch.zeros(()).expand(*other.get_submodule(made.pretrained_cfg["first_conv"]).weight[:, n:].shape),
    )


def test_two_channels_cannot_be_exact_and_are_made_from_scratch_only(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"conv1 has 3 input channels; expected 1 or a number from 3, got 2"):
        tbx.edit(timm.create_model("resnet18"), "in_chans(2)")
    source = {"state_dict": dict(timm.create_model("resnet18").state_dict())}
    with pytest.raises(ValueError, match="expected 1 or a number from 3, got 2"):
        timm.create_model("ext_resnet18", in_chans=2, pretrained=True, pretrained_cfg_overlay=source)
    made = timm.create_model("ext_resnet18", in_chans=2, num_classes=3).eval()
    tbx.save(made, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(again(x), made(x))
