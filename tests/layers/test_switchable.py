"""The switchable conv against its definition."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from timm_backbones_ext.layers import SwitchableConv2d


def switchable(switch: float, **kwargs: object) -> SwitchableConv2d:
    """A layer with a difference of weights, whose switch is the same everywhere."""
    layer = SwitchableConv2d.replacing(nn.Conv2d(4, 6, 3, bias=False, **kwargs))
    nn.init.normal_(layer.weight_diff, std=0.1)
    nn.init.constant_(layer.switch.bias, switch)
    return layer


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_other_conv_has_three_times_the_dilation(dilation: int, stride: int) -> None:
    layer = switchable(0.25, stride=stride, padding=dilation, dilation=dilation)
    x = torch.randn(1, 4, 19, 16)
    near = F.conv2d(x, layer.weight, None, stride, dilation, dilation)
    far = F.conv2d(x, layer.weight + layer.weight_diff, None, stride, 3 * dilation, 3 * dilation)
    torch.testing.assert_close(layer(x), 0.25 * near + 0.75 * far)


def test_the_average_that_the_switch_sees_leaves_the_border_out() -> None:
    """So an image of one value has one switch everywhere; zeros around it would lower the switch at the border."""
    layer = SwitchableConv2d.replacing(nn.Conv2d(1, 1, 1, bias=False))
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.weight_diff, 3.0)
    nn.init.constant_(layer.switch.weight, 0.5)
    nn.init.zeros_(layer.switch.bias)
    x = torch.full((1, 1, 7, 6), 0.4)  # switch 0.5 * 0.4
    torch.testing.assert_close(layer(x), torch.full_like(x, 0.4 * (0.2 * 2.0 + 0.8 * 5.0)))


def test_global_context_is_added_before_and_after() -> None:
    layer = SwitchableConv2d.replacing(nn.Conv2d(2, 2, 1, bias=False))
    nn.init.dirac_(layer.weight)
    nn.init.dirac_(layer.pre_context.weight)
    nn.init.dirac_(layer.post_context.weight)
    x = torch.randn(1, 2, 5, 5)
    before = x + x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(layer(x), before + before.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("kwargs", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}])
def test_a_conv_with_another_padding_is_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="expected a conv with zero padding"):
        SwitchableConv2d.replacing(nn.Conv2d(2, 2, 3, **kwargs))
