"""EfficientNets are those of the published table; a depth rule must not be put in its place."""

import math

import pytest
import timm
import torch

PUBLISHED = {
    "b0": (1.0, 1.0, 224),
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
    "b5": (1.6, 2.2, 456),
    "b6": (1.8, 2.6, 528),
    "b7": (2.0, 3.1, 600),
}
"""Width, depth and resolution of EfficientNets, as their authors' code has them."""
B0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)


def shape(width: float, depth: float) -> tuple[int, int]:
    """Blocks, and channels of the head."""
    head = max(8, int(1280 * width + 4) // 8 * 8)
    return sum(math.ceil(depth * blocks) for blocks in B0_BLOCKS), head + 8 * (head < 0.9 * 1280 * width)


@pytest.mark.parametrize("name", PUBLISHED)
def test_efficientnets_follow_the_published_table(name: str) -> None:
    width, depth, _ = PUBLISHED[name]
    with torch.device("meta"):
        model = timm.create_model(f"ext_efficientnet_{name}")
    assert (sum(map(len, model.blocks)), model.conv_head.out_channels) == shape(width, depth)
