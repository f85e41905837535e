"""Models without memory: nothing is drawn for tensors that have no values."""

from collections import Counter
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from timm_backbones_ext.weights.empty import WithoutValues


class Counting(TorchDispatchMode):
    """Counts torch's operators on tensors without memory, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += bool(args and getattr(args[0], "is_meta", False))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["ext_test_resnet", "ext_test_convnext", "ext_test_efficientnet", "ext_vgg11"])
def test_a_model_on_meta_is_built_without_drawing_values(name: str) -> None:
    with Counting() as ops:
        model = timm.create_model(name, device="meta")
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert not {"normal_", "normal", "uniform_", "uniform", "erfinv_", "erfinv", "clamp_", "clamp"} & set(+ops.seen)


@pytest.mark.parametrize("layer", [nn.Conv2d, timm.layers.create_conv2d])
def test_tensors_that_have_memory_get_the_same_values_as_without_it(layer: Any) -> None:
    def made() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        conv = layer(3, 4, 3)
        timm.layers.trunc_normal_(conv.weight, std=0.5)
        return conv.state_dict()

    plain = made()
    with WithoutValues():
        within = made()
    assert plain.keys() == within.keys()
    assert all(torch.equal(plain[key], within[key]) for key in plain)
