"""timm's attention modules, starting as the identity: gates are 2 * sigmoid(0) = 1, and only the last layer is zero.

With zeros in both layers, an SE would never get a gradient. The gate is doubled instead of halving the base's weights,
so that these stay bit-identical.
"""

from typing import ClassVar

from timm.layers import EcaModule, GlobalContext, SEModule
from torch import Tensor, nn

from .._timm import CbamModule
from .conv import Added

__all__ = ["Cbam", "Eca", "Gca", "NeutralGate", "Se"]


class NeutralGate(nn.Module):
    """2 * sigmoid(x): 1 at 0, between 0 and 2."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...), element by element."""
        return 2.0 * x.sigmoid()


class Attention(Added):
    """Base class of the four below: timm's constructor with a neutral gate. (N, C, H, W) -> (N, C, H, W)."""

    zeroed: ClassVar[tuple[str, ...]]
    """Submodules whose parameters are zero at the identity."""

    def __init__(self, channels: int, device: object = None, dtype: object = None) -> None:
        super().__init__(channels, gate_layer=NeutralGate, device=device, dtype=dtype)
        self.reset_identity()

    def reset_identity(self) -> None:
        """Set the last layer before each gate to zero."""
        for name in self.zeroed:
            for parameter in self.get_submodule(name).parameters():
                nn.init.zeros_(parameter)


class Eca(Attention, EcaModule):
    """Efficient channel attention, https://arxiv.org/abs/1910.03151, section 3.2."""

    zeroed = ("conv",)


class Se(Attention, SEModule):
    """Squeeze and excitation, https://arxiv.org/abs/1709.01507, section 3."""

    zeroed = ("fc2",)


class Cbam(Attention, CbamModule):
    """Channel, then spatial attention, https://arxiv.org/abs/1807.06521, section 3.

    The weight of the norm in the spatial gate starts at zero. With zeros in the conv before this norm, the gradient
    would explode.
    """

    zeroed = ("channel.fc2", "spatial.conv.bn")


class Gca(Attention, GlobalContext):
    """Global context with scaling, https://arxiv.org/abs/1904.11492, section 3; timm's `gca`."""

    zeroed = ("mlp_scale.fc2",)
