"""A layer norm on each feature map before the neck, as in detectors on Swin (https://arxiv.org/abs/2103.14030)."""

from dataclasses import dataclass
from typing import ClassVar

from timm.layers import LayerNorm2d
from torch import nn

from .._types import Model
from .base import Edit, register_edit

__all__ = ["OutNorm"]


@register_edit(
    families=("convnext",),
    exact="eval+train",
    evidence="none: the usual recipe of detectors on ConvNeXt (mmdet, mmseg)",
)
@dataclass(frozen=True)
class OutNorm(Edit):
    """A layer norm on each map of a `features_only` model, with weight 1 and bias 0.

    The maps differ from the base's: they are the base's maps, normalised per pixel. Logits, `forward_features` and
    `forward_intermediates` equal the base's. TorchScript compiles the full model, but not the `features_only` one.
    """

    maps_only: ClassVar[bool] = True

    def apply(self, model: Model) -> None:
        """Add `out_norms`, one per level."""
        if hasattr(model, "out_norms"):
            raise ValueError("out_norm: the model has norms on its maps already")
        weight = next(model.parameters())
        like = {"device": weight.device, "dtype": weight.dtype}
        norms = [LayerNorm2d(info["num_chs"], eps=1e-6, **like) for info in model.feature_info]
        model.out_norms = nn.ModuleDict({str(level): norm for level, norm in enumerate(norms)}).train(model.training)
