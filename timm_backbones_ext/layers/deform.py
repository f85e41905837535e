"""Modulated deformable convolution, DCNv2 (https://arxiv.org/abs/1811.11168), that starts as the conv it replaces."""

from typing import Any, ClassVar

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from .conv import check_zero_padding

__all__ = ["DeformConv2d"]


@register_notrace_module
class DeformConv2d(nn.Conv2d):
    """A conv whose taps are moved by learned offsets and scaled by learned masks; takes nn.Conv2d's arguments.

    Offsets start at 0 pixels and masks at 2 * sigmoid(0) = 1, so the layer starts as the plain conv with its weight.
    (The paper and mmcv start masks at sigmoid(0) = 0.5, which halves the output of a pretrained conv.)
    The new tensors are `conv_offset.weight` and `conv_offset.bias`, the names that mmcv uses.
    """

    lr_scales: ClassVar[dict[str, float]] = {"conv_offset": 0.1}
    """Factors on the learning rate, by submodule; `param_groups` reads them."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        taps = self.kernel_size[0] * self.kernel_size[1]
        shape: Any = (in_channels, 3 * taps, self.kernel_size, self.stride, self.padding, self.dilation)
        self.conv_offset = nn.Conv2d(*shape, device=self.weight.device, dtype=self.weight.dtype)
        self.reset_identity()

    @classmethod
    def replacing(cls, conv: nn.Conv2d) -> "DeformConv2d":
        """A deformable conv with the parameters of `conv`: the same objects, so optimizers keep them.

        Raises:
            ValueError: `conv` does not pad with a fixed number of zeros.
        """
        check_zero_padding(conv)
        weight = conv.weight
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        deform = cls(*shape, conv.groups, conv.bias is not None, device="meta", dtype=weight.dtype)
        deform.to_empty(device=weight.device).train(conv.training)
        deform.weight, deform.bias = weight, conv.bias
        deform.reset_identity()
        return deform

    def reset_identity(self) -> None:
        """Set all offsets to 0 pixels and all masks to 1."""
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter] x as everywhere here
        """(N, C_in, H, W) -> (N, C_out, H', W'); 16-bit inputs are sampled in float32 and cast back."""
        shape = (self.stride, self.padding, self.dilation)
        return _sample(x, self.conv_offset(x), self.weight, self.bias, *shape)  # ty: ignore[invalid-argument-type]


@torch.fx.wrap  # torch.fx keeps this function as one call, since its branch depends on the dtype
def _sample(
    x: Tensor,
    offset_mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    half = weight.dtype == torch.bfloat16 or weight.dtype == torch.float16
    dtype = torch.float32 if half else weight.dtype
    taps = weight.shape[2] * weight.shape[3]
    offset, mask = offset_mask.to(dtype).split([2 * taps, taps], dim=1)
    if bias is not None:
        bias = bias.to(dtype)
    offset, mask = _nan_into_mask(offset, 2.0 * mask.sigmoid())
    y = deform_conv2d(x.to(dtype), offset, weight.to(dtype), bias, stride, padding, dilation, mask=mask)
    return y.to(offset_mask.dtype)


def _nan_into_mask(offset: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Replace NaN offsets, and set their masks to NaN; finite offsets and their masks stay bit-identical.

    On the CPU, torchvision reads outside the image for a NaN offset, which kills the process. A NaN mask gives the
    NaN output instead.
    """
    lost = offset.isnan()
    mask = mask.masked_fill(lost[:, 0::2] | lost[:, 1::2], float("nan"))  # channels of offsets are (y, x) per tap
    return offset.masked_fill(lost, 0.0), mask
