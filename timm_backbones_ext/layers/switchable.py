"""Switchable atrous convolution that starts as a plain conv: DetectoRS, https://arxiv.org/abs/2006.02334, section 4."""

from typing import Any

import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from .conv import check_zero_padding

__all__ = ["SwitchableConv2d"]


@register_notrace_module
class SwitchableConv2d(nn.Conv2d):
    """A conv that chooses per pixel between itself and a copy with three times its dilation.

        y = S * conv(x, W) + (1 - S) * conv(x, W + dW, dilation 3), with global context added before and after

    The switch S starts at 1, dW and both contexts at 0. Unlike the paper, W is not standardised, which would change
    what a pretrained conv computes. The input of the switch is a 5x5 average over the positions inside the image; the
    paper reflects the border, which needs maps of 3 pixels or more.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        dd: Any = {"device": self.weight.device, "dtype": self.weight.dtype}
        self.weight_diff = nn.Parameter(self.weight.detach().clone())
        self.switch = nn.Conv2d(in_channels, 1, 1, self.stride, **dd)  # ty: ignore[invalid-argument-type] a pair
        self.pre_context = nn.Conv2d(in_channels, in_channels, 1, **dd)
        self.post_context = nn.Conv2d(out_channels, out_channels, 1, **dd)
        self.reset_identity()

    @classmethod
    def replacing(cls, conv: nn.Conv2d) -> "SwitchableConv2d":
        """A switchable conv with the parameters of `conv`: the same objects, so optimizers keep them.

        Raises:
            ValueError: `conv` does not pad with a fixed number of zeros.
        """
        check_zero_padding(conv)
        weight = conv.weight
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        switchable = cls(*shape, conv.groups, conv.bias is not None, device="meta", dtype=weight.dtype)
        switchable.to_empty(device=weight.device).train(conv.training)
        switchable.weight, switchable.bias = weight, conv.bias
        switchable.reset_identity()
        return switchable

    def reset_identity(self) -> None:
        """Set S to 1, and dW and both contexts to 0."""
        for tensor in (self.weight_diff, *self.pre_context.parameters(), *self.post_context.parameters()):
            nn.init.zeros_(tensor)
        nn.init.zeros_(self.switch.weight)
        if self.switch.bias is not None:
            nn.init.ones_(self.switch.bias)

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter] x as everywhere here
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        x = x + self.pre_context(x.mean((2, 3), keepdim=True))
        switch = self.switch(F.avg_pool2d(x, 5, 1, 2, count_include_pad=False))
        wide_padding = (3 * self.padding[0], 3 * self.padding[1])
        wide_dilation = (3 * self.dilation[0], 3 * self.dilation[1])
        near = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        weight = self.weight + self.weight_diff
        far = F.conv2d(x, weight, self.bias, self.stride, wide_padding, wide_dilation, self.groups)  # ty: ignore[no-matching-overload]
        y = switch * near + (1 - switch) * far
        return y + self.post_context(y.mean((2, 3), keepdim=True))
