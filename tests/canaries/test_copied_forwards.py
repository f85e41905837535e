"""Methods of timm that layers/split_norm_act.py copies with one change: activations stand beside the norms.

When red: read timm's change of the method, make it in the copy too, and put the new hash here.
"""

import hashlib
import inspect
from collections.abc import Callable

import pytest
from timm.models import EfficientNet
from timm.models._efficientnet_blocks import (
    CondConvResidual,
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
)

from timm_backbones_ext.features import FeatureGetter, FeatureGraph
from timm_backbones_ext.layers import split_norm_act

COPIED = {
    "ConvBnAct.forward": "26e3a869e7a346cb",
    "DepthwiseSeparableConv.forward": "9933da8dd03375d4",
    "InvertedResidual.forward": "79b9321db3aa7ecf",
    "CondConvResidual.forward": "bb422e9c4da0c60b",
    "EdgeResidual.forward": "2493bbc00ebc551d",
    "EfficientNet.as_sequential": "c1c2f11e3675f9a1",
    "EfficientNet.forward_intermediates": "6be5daa58aac0996",
    "EfficientNet.prune_intermediate_layers": "d088c27e2b99227e",
    "EfficientNet.forward_features": "ae602f564efa1eb2",
    "FeatureGetterNet.forward": "a2b24c3065a6d173",
    "FeatureGraphNet.forward": "9fac2a85908094ac",
}
"""The first 16 digits of the sha256 of each method's source in timm 1.0.31."""


def methods() -> dict[str, Callable]:
    """Every method of timm's that a class of ours replaces, by `Class.method`."""
    blocks = (ConvBnAct, DepthwiseSeparableConv, InvertedResidual, CondConvResidual, EdgeResidual, EfficientNet)
    ours = {cls: getattr(split_norm_act, f"Split{cls.__name__}") for cls in blocks}
    ours |= {cls.__bases__[-1]: cls for cls in (FeatureGetter, FeatureGraph)}
    return {
        f"{cls.__name__}.{name}": vars(cls)[name]
        for cls, split in ours.items()
        for name in vars(split)
        if name in vars(cls) and callable(vars(cls)[name])
    }


@pytest.mark.parametrize("name", methods())
def test_timms_method_is_the_one_that_was_copied(name: str) -> None:
    source = inspect.getsource(methods()[name])
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == COPIED[name], source
