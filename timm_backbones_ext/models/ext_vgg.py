"""VGG (https://arxiv.org/abs/1409.1556) and its variant with branches."""

from typing import Any

from timm.models import VGG

from ..registry import build, variant

__all__: list[str] = []  # timm appends each entry function's name

default_cfgs: dict[str, Any] = {}  # filled by @variant from timm's registry


@variant("vgg11")
def ext_vgg11(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-11; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg11_bn")
def ext_vgg11_bn(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-11 with batch norm; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg13")
def ext_vgg13(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-13; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg13_bn")
def ext_vgg13_bn(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-13 with batch norm; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg16")
def ext_vgg16(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-16; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg16_bn")
def ext_vgg16_bn(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-16 with batch norm; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg19")
def ext_vgg19(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-19; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg19_bn")
def ext_vgg19_bn(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-19 with batch norm; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("vgg16", "rep")
def ext_vgg16_rep(pretrained: bool = False, **kwargs: Any) -> VGG:
    """VGG-16 with branches beside every 3x3 conv that merge away; starts as vgg16."""
    return build(pretrained, **kwargs)
