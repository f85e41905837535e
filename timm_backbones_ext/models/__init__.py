"""The named variants, one file per family; importing this package registers them with timm."""

from . import ext_cifar, ext_convnext, ext_efficientnet, ext_resnet, ext_vgg

__all__ = ["ext_cifar", "ext_convnext", "ext_efficientnet", "ext_resnet", "ext_vgg"]
