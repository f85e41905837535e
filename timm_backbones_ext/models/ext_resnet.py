"""ResNet (https://arxiv.org/abs/1512.03385), ResNeXt, Wide ResNet and their variants with edits."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import ResNet, build_model_with_cfg
from timm.models.resnet import Bottleneck

from ..registry import architecture, build, variant

__all__: list[str] = []  # timm appends each entry function's name

default_cfgs: dict[str, Any] = {}  # filled by @variant from timm's registry, and by @architecture

CONFIG = {
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "num_classes": 1000,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "conv1",
    "classifier": "fc",
}


@variant("test_resnet")
def ext_test_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """A ResNet of 0.5M parameters, timm's own for tests; takes `edits=`."""
    return build(pretrained, **kwargs)


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


@variant("resnext50_32x4d")
def ext_resnext50_32x4d(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNeXt-50, 32 groups of width 4 (https://arxiv.org/abs/1611.05431); takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("wide_resnet50_2")
def ext_wide_resnet50_2(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with twice the width inside its blocks (https://arxiv.org/abs/1605.07146); takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("resnet18", "dcn")
def ext_resnet18_dcn(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18 with modulated deformable convs in stages 2-4 (c3-c5); starts as resnet18."""
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


@variant("resnext50_32x4d", "dcn")
def ext_resnext50_32x4d_dcn(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNeXt-50 with modulated deformable convs in stages 2-4 (c3-c5); starts as resnext50_32x4d."""
    return build(pretrained, **kwargs)


@variant("resnet50", "sac")
def ext_resnet50_sac(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with switchable atrous convs in stages 2-4 (c3-c5); starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet50", "eca")
def ext_resnet50_eca(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with efficient channel attention in every block; starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet50", "se")
def ext_resnet50_se(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with squeeze and excitation in every block; starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet50", "cbam")
def ext_resnet50_cbam(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with channel and spatial attention in every block; starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet50", "gca")
def ext_resnet50_gca(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with global context attention in every block; starts as resnet50."""
    return build(pretrained, **kwargs)


@variant("resnet50", "rep")
def ext_resnet50_rep(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-50 with branches beside every 3x3 conv that merge away; starts as resnet50."""
    return build(pretrained, **kwargs)


def bottlenecks(name: str, layers: tuple[int, int, int, int], **kwargs: Any) -> ResNet:
    """The net without edits, by timm's builder, with so many bottleneck blocks in its four stages."""
    return build_model_with_cfg(ResNet, name, block=Bottleneck, layers=layers, **kwargs)


@architecture(bottlenecks, "resnet", CONFIG, layers=(260, 64, 6, 3))
def ext_resnet1001(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet of 1001 layers that a ResNet-50 grows into; new blocks are where they have the fewest weights."""
    return build(pretrained, **kwargs)
