"""ResNets for 32x32 images and their plain twins: section 4.2 of https://arxiv.org/abs/1512.03385.

A net has 6n + 2 layers: a 3x3 conv, three stages of n blocks with 16, 32 and 64 channels, and a classifier. Shortcuts
have no parameters (option A). The plain net has the same layers without shortcuts. The blocks are timm's, so the edits
for ResNets can be applied.
"""

from typing import Any

from timm.models import ResNet, build_model_with_cfg
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from .._timm import feature_take_indices
from .._types import Model
from ..registry import architecture, build

__all__: list[str] = ["CifarResNet"]  # timm appends each entry function's name

default_cfgs: dict[str, Any] = {}  # filled by @architecture

CONFIG = {
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "num_classes": 10,
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.4914, 0.4822, 0.4465),  # of CIFAR-10
    "std": (0.2470, 0.2435, 0.2616),
    "first_conv": "conv1",
    "classifier": "fc",
}


class PaddedShortcut(nn.Module):
    """(N, C, H, W) -> (N, C + added, H / stride, W / stride): every stride-th pixel, and channels of zeros."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        """Subsample, then pad the channels."""
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class NoShortcut(nn.Module):
    """A shortcut that gives zero, which makes timm's residual block a plain one."""

    def forward(self, x: Tensor) -> Tensor:
        """A zero that broadcasts."""
        return x.new_zeros([1])


class CifarResNet(ResNet):
    """timm's ResNet with a stem for 32x32 images, three stages and shortcuts without parameters.

    The fourth stage is empty; timm's methods and edits need it to exist.

    Args:
        depth: Layers with weights, 6n + 2.
        residual: Build shortcuts.
        output_stride: Input pixels per pixel of the last map: 4, or 2 with a dilated third stage.
        zero_init_last: Start residual blocks as the identity. The paper does not; a plain net would output zeros.
        kwargs: Further arguments of timm's ResNet.
    """

    def __init__(
        self,
        depth: int,
        *,
        residual: bool = True,
        output_stride: int = 4,
        zero_init_last: bool = False,
        **kwargs: Any,
    ) -> None:
        if output_stride not in (2, 4):
            raise ValueError(f"output_stride must be 2 or 4 in a net for 32x32 images; got {output_stride}")
        block: Any = BasicBlock
        super().__init__(
            block,
            (*[(depth - 2) // 6] * 3, 0),
            output_stride=4 * output_stride,  # timm's strides include those of an ImageNet stem
            stem_type="deep",  # for the 16 channels that follow it; the stem itself is replaced below
            stem_width=8,
            channels=(16, 32, 64, 64),
            zero_init_last=zero_init_last,
            **kwargs,
        )
        _exchange(self, residual=residual)

    def init_weights(self, zero_init_last: bool = False) -> None:
        """Initialise all weights; see the class for `zero_init_last`."""
        super().init_weights(zero_init_last=zero_init_last)

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, *args: Any, **kwargs: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As in timm: the last map and the maps at `indices`, or these alone; there are four levels."""
        return super().forward_intermediates(x, feature_take_indices(4, indices)[0], *args, **kwargs)

    def prune_intermediate_layers(self, indices: int | list[int] = 1, *args: Any, **kwargs: Any) -> list[int]:
        """As in timm: remove modules that the maps at `indices` do not need."""
        taken, last = feature_take_indices(4, indices)
        super().prune_intermediate_layers([*taken, 4] if last == 3 else taken, *args, **kwargs)
        return taken


def _exchange(net: Model, *, residual: bool) -> None:
    """Replace timm's stem for larger images, and the convs in its shortcuts."""
    deep = net.conv1[0].weight
    net.conv1 = nn.Conv2d(deep.shape[1], 16, 3, padding=1, bias=False, device=deep.device, dtype=deep.dtype)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    net.feature_info = [{**info, "reduction": max(1, info["reduction"] // 4)} for info in net.feature_info[:4]]
    for block in (*net.layer1, *net.layer2, *net.layer3):
        if not residual:
            block.downsample = NoShortcut()
        elif block.downsample is not None:
            conv = block.conv1
            block.downsample = PaddedShortcut(conv.stride[0], conv.out_channels - conv.in_channels)


def resnet_cifar(name: str, depth: int, residual: bool = True, **kwargs: Any) -> CifarResNet:
    """Build the net without edits with timm's builder."""
    return build_model_with_cfg(CifarResNet, name, depth=depth, residual=residual, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=20)
def ext_resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for 32x32 images; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=32)
def ext_resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for 32x32 images; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=44)
def ext_resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44 for 32x32 images; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=56)
def ext_resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for 32x32 images; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=110)
def ext_resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110 for 32x32 images; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=1202)
def ext_resnet1202_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-1202 for 32x32 images; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=20, residual=False)
def ext_plainnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The layers of ResNet-20 for 32x32 images without shortcuts; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=32, residual=False)
def ext_plainnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The layers of ResNet-32 for 32x32 images without shortcuts; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=44, residual=False)
def ext_plainnet44_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The layers of ResNet-44 for 32x32 images without shortcuts; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=56, residual=False)
def ext_plainnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The layers of ResNet-56 for 32x32 images without shortcuts; takes `edits=`."""
    return build(pretrained, **kwargs)


@architecture(resnet_cifar, "resnet", CONFIG, depth=110, residual=False)
def ext_plainnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """The layers of ResNet-110 for 32x32 images without shortcuts; takes `edits=`."""
    return build(pretrained, **kwargs)
