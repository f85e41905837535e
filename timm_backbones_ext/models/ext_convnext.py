"""ConvNeXt (https://arxiv.org/abs/2201.03545), ConvNeXt V2 (https://arxiv.org/abs/2301.00808) and their variants."""

from typing import Any

from timm.models import ConvNeXt

from ..registry import build, variant

__all__: list[str] = []  # timm appends each entry function's name

default_cfgs: dict[str, Any] = {}  # filled by @variant from timm's registry


@variant("test_convnext")
def ext_test_convnext(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """A ConvNeXt of 0.3M parameters, timm's own for tests; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_atto")
def ext_convnext_atto(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Atto; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_femto")
def ext_convnext_femto(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Femto; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_pico")
def ext_convnext_pico(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Pico; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_nano")
def ext_convnext_nano(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Nano; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny")
def ext_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_small")
def ext_convnext_small(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Small; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_base")
def ext_convnext_base(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Base; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnext_large")
def ext_convnext_large(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Large; takes `edits=`."""
    return build(pretrained, **kwargs)


@variant("convnextv2_tiny")
def ext_convnextv2_tiny(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt V2 Tiny; takes `edits=`. Its weights are CC-BY-NC."""
    return build(pretrained, **kwargs)


@variant("convnextv2_base")
def ext_convnextv2_base(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt V2 Base; takes `edits=`. Its weights are CC-BY-NC."""
    return build(pretrained, **kwargs)


@variant("convnextv2_large")
def ext_convnextv2_large(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt V2 Large; takes `edits=`. Its weights are CC-BY-NC."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny", "grn")
def ext_convnext_tiny_grn(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny with global response normalisation in every block; starts as convnext_tiny."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny", "kernel")
def ext_convnext_tiny_k13(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny with depthwise kernels of 13x13; starts as convnext_tiny."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny", "dilated_reparam")
def ext_convnext_tiny_drb(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny with dilated branches that merge away; starts as convnext_tiny."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny", "overlap_stem")
def ext_convnext_tiny_os(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny with overlapping patches; starts as convnext_tiny."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny", "eca")
def ext_convnext_tiny_eca(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny with efficient channel attention after every depthwise conv; starts as convnext_tiny."""
    return build(pretrained, **kwargs)


@variant("convnext_tiny", "se")
def ext_convnext_tiny_se(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """ConvNeXt Tiny with squeeze and excitation after every depthwise conv; starts as convnext_tiny."""
    return build(pretrained, **kwargs)
