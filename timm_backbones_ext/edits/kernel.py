"""Larger depthwise kernels with zeros around the pretrained weights: RepLKNet, https://arxiv.org/abs/2203.06717."""

from dataclasses import dataclass

from .._types import Model
from ..families import depthwise_convs
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["Kernel"]


@register_edit(
    families=("convnext", "efficientnet"),
    exact="eval+train",
    evidence="from scratch: larger kernels help detection more than classification (RepLKNet, Table 5)",
)
@dataclass(frozen=True)
class Kernel(Edit):
    """Depthwise kernels of `size` x `size` pixels; kernels that are already as large stay the same."""

    size: int = 13
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 3 or self.size % 2 == 0:
            raise ValueError(f"kernel: size must be an odd number of pixels from 3; got {self.size!r}")

    def apply(self, model: Model) -> None:
        """Grow the depthwise convs of the stages."""
        small = [
            (name, conv) for name, conv in depthwise_convs(model, self.stages) if max(conv.kernel_size) < self.size
        ]
        if not small:
            raise ValueError(f"kernel: no depthwise conv of the stages has a kernel below {self.size}")
        for name, conv in small:
            rows, columns = (self.size - side for side in conv.kernel_size)
            if rows % 2 or columns % 2:
                raise ValueError(
                    f"kernel: {name} has an even kernel, {conv.kernel_size}, which cannot be centred in {self.size}"
                )
            extended = ExtendedConv2d.replacing(conv)
            extended.grow(above=rows // 2, below=rows // 2, left=columns // 2, right=columns // 2)
            model.set_submodule(name, extended)
