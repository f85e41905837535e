"""The conv that edits extend: windows, pads, branches and sums."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from timm_backbones_ext.edits.dilated_reparam import BRANCHES
from timm_backbones_ext.layers import ExtendedConv2d
from timm_backbones_ext.layers.conv import Kept, Pads

PAPER = {  # UniRepLKNet's code, DilatedReparamBlock: kernel sizes and dilations
    5: ([3, 3], [1, 2]),
    7: ([5, 3, 3], [1, 2, 3]),
    9: ([5, 5, 3, 3], [1, 2, 3, 4]),
    11: ([5, 5, 3, 3, 3], [1, 2, 3, 4, 5]),
    13: ([5, 7, 3, 3, 3], [1, 2, 3, 4, 5]),
    15: ([5, 7, 3, 3, 3], [1, 2, 3, 5, 7]),
    17: ([5, 9, 3, 3, 3], [1, 2, 4, 5, 7]),
}


def extended(*args: int, **kwargs: object) -> ExtendedConv2d:
    return ExtendedConv2d.replacing(nn.Conv2d(*args, **kwargs))


def test_the_whole_of_a_weight_is_as_high_and_as_wide_as_it() -> None:
    assert Kept.all_of(torch.zeros(4, 2, 3, 5)) == Kept(channels=2, top=0, bottom=3, left=0, right=5)


def learned(conv: ExtendedConv2d) -> ExtendedConv2d:
    """A conv in eval mode whose branches add something."""
    for branch in conv.branches.values():
        nn.init.normal_(branch.norm.weight)
        nn.init.normal_(branch.norm.bias)
        branch.norm.running_mean.normal_()
        branch.norm.running_var.uniform_(0.5, 2.0)
    return conv.eval()


def test_dilated_branches_are_those_of_the_papers_code() -> None:
    assert {size: list(zip(*rows, strict=True)) for size, rows in PAPER.items()} == {
        size: list(rows) for size, rows in BRANCHES.items()
    }


@pytest.mark.parametrize("size", PAPER)
def test_every_dilated_branch_merges_into_its_kernel(size: int) -> None:
    conv = extended(4, 4, size, padding=size // 2, groups=4).double()
    for index, (side, dilation) in enumerate(BRANCHES[size]):
        conv.add_branch(str(index), (side, side), dilation)
    x = torch.randn(2, 4, 23, 21, dtype=torch.float64)
    expected = learned(conv)(x)
    shift = conv.merge_branches()
    torch.testing.assert_close(conv(x) + shift[:, None, None], expected)


def test_branches_grow_and_are_dilated_with_the_conv_and_still_merge() -> None:
    conv = extended(3, 5, 3, padding=1).double()
    conv.add_branch("row", (1, 3))
    conv.grow(in_channels=2, above=1, below=1, left=2, right=2)
    conv.dilate(2)
    conv = learned(conv)
    nn.init.normal_(conv.branches["row"].conv.weight)
    x = torch.randn(1, 5, 17, 16, dtype=torch.float64)
    expected = conv(x)
    assert expected.shape == (1, 5, 17, 16)
    assert conv.branches["row"].conv.dilation == (2, 2)
    shift = conv.merge_branches()
    torch.testing.assert_close(conv(x) + shift[:, None, None], expected)


def test_growing_keeps_the_window_of_the_base_and_the_output() -> None:
    conv = nn.Conv2d(3, 5, (4, 4), stride=4)
    x = torch.randn(1, 3, 19, 23)
    expected = conv(x)
    grown = ExtendedConv2d.replacing(conv)
    grown.grow(above=1, below=2, left=1, right=2)
    assert grown.kept == Kept(channels=3, top=1, bottom=5, left=1, right=5)
    assert grown.margin == Pads(left=0, right=1, above=0, below=1)
    torch.testing.assert_close(grown(x), expected)
    torch.testing.assert_close(torch.jit.script(grown)(x), expected)
    nn.init.normal_(grown.weight)
    grown.reset_identity()
    assert grown.weight.count_nonzero() == 5 * 3 * 4 * 4
    assert grown.weight[:, :, 1:5, 1:5].all()


@pytest.mark.parametrize("branch", [False, True])
def test_summed_inputs_give_the_same_on_equal_channels(branch: bool) -> None:
    conv = extended(3, 5, 3, padding=1).double()
    if branch:
        conv.add_branch("k1x1", (1, 1))
    x = torch.randn(2, 1, 9, 8, dtype=torch.float64)
    expected = learned(conv)(x.expand(-1, 3, -1, -1))
    conv.sum_inputs()
    torch.testing.assert_close(conv(x), expected)
    assert conv.in_channels == 1
    assert type(conv.simplest()) is (ExtendedConv2d if branch else nn.Conv2d)


@pytest.mark.parametrize("kwargs", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}])
def test_a_conv_with_another_padding_is_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="expected a conv with zero padding"):
        extended(2, 2, 3, **kwargs)


def test_fixed_pads_equal_same_padding_where_the_stride_divides_the_sides() -> None:
    from timm.layers import Conv2dSame

    conv = Conv2dSame(3, 4, 3, stride=2)
    x = torch.randn(1, 3, 16, 12)
    expected = conv(x)
    fixed = ExtendedConv2d.replacing(conv)
    fixed.pad_statically()
    assert (fixed.padding, fixed.margin) == ((0, 0), Pads(left=0, right=1, above=0, below=1))
    torch.testing.assert_close(fixed(x), expected)
    torch.testing.assert_close(F.conv2d(F.pad(x, fixed.margin), conv.weight, conv.bias, 2), expected)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_a_branch_beside_uneven_pads_sees_the_pixels_that_the_conv_sees(size: tuple[int, int]) -> None:
    conv = extended(4, 4, 5, stride=2, groups=4, bias=True).double()
    conv.pad_by(1, 2, 1, 2)
    for name, kernel_size, dilation in (("point", (1, 1), 1), ("row", (1, 5), 1), ("wide", (3, 3), 2)):
        conv.add_branch(name, kernel_size, dilation)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    before = learned(conv)(x)
    shift = conv.merge_branches()
    assert (conv(x) + shift[:, None, None] - before).abs().max() <= 1e-12
