"""mmdetection: its path aggregation against ours. The rest of it needs compiled operators: see mmpretrain's remark."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="has an environment of its own")

import mmdet

from timm_backbones_ext import testing
from timm_backbones_ext.detection.necks import NECKS

WIDTHS = [8, 12, 16]


def maps(*sizes: tuple[int, int]) -> dict[str, Tensor]:
    return {str(i): torch.randn(2, width, *size) for i, (width, size) in enumerate(zip(WIDTHS, sizes, strict=True))}


@pytest.fixture
def pafpn(monkeypatch: pytest.MonkeyPatch) -> type[nn.Module]:
    """mmdetection's neck, without what its packages import beside it: the neck itself needs no operator."""
    root = Path(mmdet.__file__).parent
    for package, folder in (("mmdet.models", root / "models"), ("mmdet.models.necks", root / "models" / "necks")):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module("mmdet.models.necks.pafpn").PAFPN


def twins(pafpn: type[nn.Module], extra: int) -> tuple[nn.Module, nn.Module]:
    """mmdetection's and ours, with the same weights; coarser maps as torchvision's FPN makes them."""
    how = {"add_extra_convs": "on_output", "relu_before_extra_convs": True} if extra == 2 else {}
    theirs, ours = pafpn(WIDTHS, 10, num_outs=3 + extra, **how), NECKS["pan"](WIDTHS, 10, extra)
    outputs, coarser = theirs.fpn_convs[:3], theirs.fpn_convs[3:]
    parts = (theirs.lateral_convs, outputs, theirs.downsample_convs, theirs.pafpn_convs, coarser)
    tensors = [tensor for part in parts for tensor in part.parameters()]
    for tensor in tensors:
        nn.init.normal_(tensor, std=0.3)
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    return theirs, ours


@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("sizes", [((16, 24), (8, 12), (4, 6)), ((25, 19), (13, 10), (7, 5))])
def test_a_pan_of_ours_computes_what_mmdetections_does(pafpn: type, sizes: tuple, extra: int) -> None:
    theirs, ours = twins(pafpn, extra)
    x = maps(*sizes)
    expected = theirs(list(x.values()))
    assert len(expected) == 3 + extra
    assert testing.largest(list(ours(x).values()), list(expected)) < 1e-5


def test_sides_that_a_convnext_has_rounded_down_are_for_ours_alone(pafpn: type) -> None:
    theirs, ours = twins(pafpn, 0)
    x = maps((25, 18), (12, 9), (6, 4))
    with pytest.raises(RuntimeError, match="must match"):
        theirs(list(x.values()))
    assert [tuple(level.shape[-2:]) for level in ours(x).values()] == [(25, 18), (12, 9), (6, 4)]
