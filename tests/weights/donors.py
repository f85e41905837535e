"""Models of other projects with random weights, for tests that load them."""

import math

import torch
import torchvision
from torch import Tensor, nn


def theirs(name: str) -> nn.Module:
    """torchvision's model without data."""
    with torch.device("meta"):
        return torchvision.models.get_model(name.replace("netv2", "net_v2"))


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """A model without data gets random weights that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            values[key] = torch.tensor(3)
        elif key.endswith("running_var") or value.ndim == 1:
            values[key] = torch.rand(value.shape, generator=generator) * (0.1 if key.endswith("bias") else 1) + 0.1
        else:
            fan = max(1, value[0].numel())
            values[key] = torch.randn(value.shape, generator=generator) * math.sqrt(2 / fan)
    model.load_state_dict(values, assign=True)
    return model.eval()


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[key], wanted[key]) for key in wanted)
