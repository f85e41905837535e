"""Pictures of feature maps."""

import numpy as np
import torch

from timm_backbones_ext.viz import principal_colours


def test_the_same_map_gives_the_same_colours_whatever_the_sign_of_its_channels() -> None:
    level = torch.randn(16, 7, 9)
    colours = principal_colours(level)
    assert colours.shape == (7, 9, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    np.testing.assert_array_equal(principal_colours(level), colours)


def test_regions_that_differ_get_colours_that_differ() -> None:
    level = torch.zeros(8, 6, 6)
    level[:4, :, 3:] = 1
    colours = principal_colours(level + 1e-3 * torch.randn(8, 6, 6))
    left, right = colours[:, :3].mean((0, 1)), colours[:, 3:].mean((0, 1))
    assert abs(left - right).max() > 0.5


def test_maps_of_one_or_two_channels_are_drawn_too() -> None:
    for channels in (1, 2):
        assert principal_colours(torch.randn(channels, 5, 5)).shape == (5, 5, 3)
