"""EfficientNet (https://arxiv.org/abs/1905.11946), EfficientNetV2 (https://arxiv.org/abs/2104.00298).

B6, B7 and V2 start from TensorFlow's weights, since timm has no others for them; their images need sides that are
multiples of 32 pixels to give exactly what those weights gave.
"""

from typing import Any

from timm.models import EfficientNet

from ..registry import build, variant

__all__: list[str] = []  # timm appends each entry function's name

default_cfgs: dict[str, Any] = {}  # filled by @variant from timm's registry


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
