"""pytest plugin for timm's suite: tests that timm gates by the names of its modules take our modules in too."""

import functools

import timm

list_models = timm.list_models


@functools.wraps(list_models)
def with_ours(filter="", module="", **kwargs):
    """`resnet` means `ext_resnet` as well."""
    modules = [module] if isinstance(module, str) else list(module)
    ours = [f"ext_{name}" for name in modules] + ["ext_cifar"] * ("resnet" in modules)  # its nets are timm's ResNet
    return list_models(filter, [*modules, *ours] if any(modules) else "", **kwargs)


timm.list_models = with_ours
