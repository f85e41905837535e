"""Every private name of timm that this package uses, in one place: a new release of timm is checked here first."""

from timm.layers.cbam import CbamModule
from timm.layers.grn import GlobalResponseNorm
from timm.models._builder import _resolve_pretrained_source as resolve_pretrained_source
from timm.models._efficientnet_blocks import (
    CondConvResidual,
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
)
from timm.models._efficientnet_builder import efficientnet_init_weights
from timm.models._features import FeatureGetterNet, feature_take_indices
from timm.models._hub import save_config_for_hf
from timm.models._registry import _model_pretrained_cfgs as model_pretrained_cfgs
from timm.models._registry import _model_with_tags as model_with_tags
from timm.models.convnext import ConvNeXtBlock
from timm.models.convnext import _init_weights as convnext_init_weights
from timm.models.efficientnet import _gen_efficientnet as gen_efficientnet

__all__ = [
    "CbamModule",
    "CondConvResidual",
    "ConvBnAct",
    "ConvNeXtBlock",
    "DepthwiseSeparableConv",
    "EdgeResidual",
    "FeatureGetterNet",
    "GlobalResponseNorm",
    "InvertedResidual",
    "SqueezeExcite",
    "convnext_init_weights",
    "efficientnet_init_weights",
    "feature_take_indices",
    "gen_efficientnet",
    "model_pretrained_cfgs",
    "model_with_tags",
    "resolve_pretrained_source",
    "save_config_for_hf",
]
