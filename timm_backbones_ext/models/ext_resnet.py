"""ResNet (https://arxiv.org/abs/1512.03385) and its variants with deformable convs."""

from typing import Any

from timm.models import ResNet

from ..registry import build, variant

__all__: list[str] = []  # timm appends each entry function's name

default_cfgs: dict[str, Any] = {}  # filled by @variant from timm's registry


@variant("resnet18")
def ext_resnet18(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("resnet34")
def ext_resnet34(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-34; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("resnet50")
def ext_resnet50(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("resnet101")
def ext_resnet101(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-101; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("resnet152")
def ext_resnet152(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-152; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("resnet50", "dcn")
def ext_resnet50_dcn(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with modulated deformable convs in stages 2-4 (c3-c5); starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet50", "dcn(stages=(4,))")
def ext_resnet50_dcn_c5(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with modulated deformable convs in stage 4 (c5); starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet101", "dcn")
def ext_resnet101_dcn(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-101 with modulated deformable convs in stages 2-4 (c3-c5); starts as resnet101."""
    return build(pretrained, **kwargs)
