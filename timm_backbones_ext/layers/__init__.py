"""Modules that timm.layers lacks."""

from .attention import Cbam, Eca, Gca, Se
from .conv import Added, Branch, ExtendedConv2d
from .deform import DeformConv2d
from .frozen import FROZEN, FrozenBatchNorm2d, FrozenBatchNormAct2d, thawed
from .low_rank import LowRank, LowRankLinear, fold_low_rank, low_rank_of, with_low_rank
from .switchable import SwitchableConv2d
from .sync_bn import CpuSyncBatchNorm, synchronised

__all__ = [
    "FROZEN",
    "Added",
    "Branch",
    "Cbam",
    "CpuSyncBatchNorm",
    "DeformConv2d",
    "Eca",
    "ExtendedConv2d",
    "FrozenBatchNorm2d",
    "FrozenBatchNormAct2d",
    "Gca",
    "LowRank",
    "LowRankLinear",
    "Se",
    "SwitchableConv2d",
    "fold_low_rank",
    "low_rank_of",
    "synchronised",
    "thawed",
    "with_low_rank",
]
