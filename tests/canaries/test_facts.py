"""Facts about the families that the documentation states; they run no code of this package.

A red test here means that a sentence in docs/ or in a docstring is wrong: look for the words of the test's name there.
"""

import itertools

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("name", ["b5", "b6", "b7"])
def test_the_compound_rule_gives_no_efficientnet_from_b5_on(name: str) -> None:
    """alpha 1.2, beta 1.1, gamma 1.15 to any power miss width, depth or resolution by 5 % and more."""
    for phi in (step / 100 for step in range(800)):
        rule = 1.1**phi, 1.2**phi, 224 * 1.15**phi
        assert max(abs(ours / theirs - 1) for ours, theirs in zip(rule, PUBLISHED[name], strict=True)) > 0.05


class Block(nn.Module):
    def __init__(self, residual: bool) -> None:
        super().__init__()
        convs = [(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)) for _ in range(2)]
        (self.first, self.norm), (self.second, self.last) = convs
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.last(self.second(self.norm(self.first(x)).relu()))
        return (y + x if self.residual else y).relu()


def first_gradient(depth: int, *, residual: bool) -> float:
    """Gradient norm of the first conv of an untrained net with so many layers, in train mode."""
    torch.manual_seed(0)
    blocks = [Block(residual) for _ in range((depth - 2) // 2)]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.functional.cross_entropy(net(torch.randn(16, 3, 16, 16)), torch.arange(16) % 10).backward()
    return net[0].weight.grad.norm().item()


def test_with_batch_norm_the_gradient_of_a_deep_plain_net_explodes_and_that_of_a_residual_net_does_not() -> None:
    """It does not vanish, as is often said."""
    plain = [first_gradient(depth, residual=False) for depth in (8, 20, 56)]
    residual = [first_gradient(depth, residual=True) for depth in (8, 20, 56)]
    assert all(later > 2 * earlier for earlier, later in itertools.pairwise(plain))
    assert plain[-1] > 100 * plain[0]
    assert max(residual) < 20 * min(residual)
