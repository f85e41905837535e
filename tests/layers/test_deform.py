"""The deformable conv against what its definition says, offset by offset."""

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from timm_backbones_ext.layers import DeformConv2d


def deform(groups: int = 1, **kwargs: object) -> tuple[nn.Conv2d, DeformConv2d]:
    conv = nn.Conv2d(8, 12, 3, padding=1, groups=groups, **kwargs)
    return conv, DeformConv2d.replacing(conv)


@pytest.mark.parametrize("kwargs", [{}, {"stride": 2}, {"bias": False}, {"groups": 4}])
def test_it_starts_as_the_conv_it_replaces(kwargs: dict) -> None:
    conv, layer = deform(**kwargs)
    x = torch.randn(2, 8, 13, 10)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    assert layer.weight is conv.weight


def test_an_offset_of_one_pixel_moves_the_picture_by_one_pixel() -> None:
    conv, layer = deform()
    with torch.no_grad():
        layer.conv_offset.bias[1:18:2] = 1  # channels are (y, x) per tap: all x offsets
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(layer(x)[..., 1:-2], conv(x)[..., 2:-1], rtol=1e-5, atol=1e-5)


def test_a_mask_of_half_halves_every_tap() -> None:
    conv, layer = deform(bias=False)
    with torch.no_grad():
        layer.conv_offset.bias[18:] = torch.logit(torch.tensor(0.25))  # 2 * sigmoid = 0.5
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(layer(x), conv(x) / 2, rtol=1e-5, atol=1e-5)


def test_sixteen_bit_inputs_are_sampled_in_float32_and_cast_back() -> None:
    conv, layer = deform()
    x = torch.randn(1, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = layer(x)
    assert under_autocast.dtype == torch.bfloat16
    torch.testing.assert_close(under_autocast.float(), conv(x), rtol=1e-2, atol=1e-2)
    layer.bfloat16()
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_torchscript_gives_the_same() -> None:
    _, layer = deform()
    nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


def test_a_tracer_that_knows_nothing_of_timm_gets_through() -> None:
    _, layer = deform()
    x = torch.randn(1, 8, 9, 9)
    traced = create_feature_extractor(nn.Sequential(layer), {"0": "y"})
    torch.testing.assert_close(traced(x)["y"], layer(x))


@pytest.mark.parametrize("kwargs", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}])
def test_a_conv_with_another_padding_is_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="expected a conv with zero padding"):
        DeformConv2d.replacing(nn.Conv2d(2, 2, 3, **kwargs))
