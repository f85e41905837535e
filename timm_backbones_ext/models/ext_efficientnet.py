"""EfficientNet (https://arxiv.org/abs/1905.11946), EfficientNetV2 (https://arxiv.org/abs/2104.00298).

B6, B7 and V2 start from TensorFlow's weights, since timm has no others for them; their images need sides that are
multiples of 32 pixels to give exactly what those weights gave.

`ext_efficientnet` scales B0 by the compound rule of the paper's section 3.3 with any `phi`. The published B1 to B7 are
not members of that rule: their factors are a table.
"""

import math
from typing import Any

from timm.models import EfficientNet

from .._timm import gen_efficientnet
from ..registry import architecture, build, variant

__all__: list[str] = ["compound"]  # timm appends each entry function's name

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15
"""Factors of depth, width and resolution per unit of phi."""
LARGEST_PHI = 10.0
CONFIG = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "num_classes": 1000,
    "first_conv": "conv_stem",
    "classifier": "classifier",
}

default_cfgs: dict[str, Any] = {}  # filled by @variant from timm's registry


@variant("test_efficientnet")
def ext_test_efficientnet(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """An EfficientNet of 0.4M parameters, timm's own for tests; takes `edits=`."""
    return build(pretrained, **kwargs)


def compound(phi: float) -> tuple[float, float, int]:
    """Width factor, depth factor and resolution of the rule; the resolution is a multiple of 4, as published ones are.

    Raises:
        ValueError: `phi` is no number from 0 to 10.
    """
    if isinstance(phi, bool) or not isinstance(phi, (int, float)) or not 0 <= phi <= LARGEST_PHI:
        raise ValueError(f"phi must be a number from 0 (EfficientNet-B0) to {LARGEST_PHI:g}; got {phi!r}")
    return BETA**phi, ALPHA**phi, 4 * round(224 * GAMMA**phi / 4)


def scaled(name: str, phi: float = 0.0, **kwargs: Any) -> EfficientNet:
    """The net without edits, by timm's generator."""
    width, depth, _ = compound(phi)
    return gen_efficientnet(name, channel_multiplier=width, depth_multiplier=depth, **kwargs)


@architecture(scaled, "efficientnet", CONFIG)
def ext_efficientnet(pretrained: bool = False, phi: float = 0.0, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 scaled by the compound rule, without weights; takes `phi=` from 0 to 10, and `edits=`."""
    if not isinstance(kwargs.get("pretrained_cfg"), dict):  # a saved model brings its own
        side = compound(phi)[2]
        size = {"input_size": (3, side, side), "pool_size": (math.ceil(side / 32),) * 2}
        kwargs["pretrained_cfg_overlay"] = {**size, **(kwargs.get("pretrained_cfg_overlay") or {})}
    return build(pretrained, phi=phi, **kwargs)


@variant("efficientnet_b0")
def ext_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("efficientnet_b1")
def ext_efficientnet_b1(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B1; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("efficientnet_b2")
def ext_efficientnet_b2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B2; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("efficientnet_b3")
def ext_efficientnet_b3(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B3; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("efficientnet_b4")
def ext_efficientnet_b4(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B4; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("efficientnet_b5")
def ext_efficientnet_b5(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B5; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b6", "static_pad")
def ext_efficientnet_b6(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B6 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b6."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b7", "static_pad")
def ext_efficientnet_b7(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B7 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b7."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnetv2_s", "static_pad")
def ext_efficientnetv2_s(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-S with TensorFlow's weights and fixed pads; starts as tf_efficientnetv2_s."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnetv2_m", "static_pad")
def ext_efficientnetv2_m(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-M with TensorFlow's weights and fixed pads; starts as tf_efficientnetv2_m."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnetv2_l", "static_pad")
def ext_efficientnetv2_l(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNetV2-L with TensorFlow's weights and fixed pads; starts as tf_efficientnetv2_l."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b0", "static_pad")
def ext_tf_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b0."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b1", "static_pad")
def ext_tf_efficientnet_b1(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B1 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b1."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b2", "static_pad")
def ext_tf_efficientnet_b2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B2 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b2."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b3", "static_pad")
def ext_tf_efficientnet_b3(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B3 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b3."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b4", "static_pad")
def ext_tf_efficientnet_b4(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B4 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b4."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_b5", "static_pad")
def ext_tf_efficientnet_b5(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B5 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_b5."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_lite0", "static_pad")
def ext_tf_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite0 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_lite0."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_lite1", "static_pad")
def ext_tf_efficientnet_lite1(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite1 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_lite1."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_lite2", "static_pad")
def ext_tf_efficientnet_lite2(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite2 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_lite2."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_lite3", "static_pad")
def ext_tf_efficientnet_lite3(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite3 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_lite3."""
    return build(pretrained, **kwargs)


@variant("tf_efficientnet_lite4", "static_pad")
def ext_tf_efficientnet_lite4(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-Lite4 with TensorFlow's weights and fixed pads; starts as tf_efficientnet_lite4."""
    return build(pretrained, **kwargs)


@variant("efficientnet_b0", "kernel")
def ext_efficientnet_b0_k13(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """EfficientNet-B0 with depthwise kernels of 13x13; starts as efficientnet_b0."""
    return build(pretrained, **kwargs)
