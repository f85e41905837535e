"""VGG: https://arxiv.org/abs/1409.1556."""

from collections.abc import Iterator
from typing import Any

from timm.models import VGG
from torch import nn

from .._types import Model
from .base import Family, Growth
from .layout import register

__all__ = ["VggFamily"]


@register
class VggFamily(Family):
    """One sequence `features` of 3x3 convs without shortcuts."""

    name = "vgg"
    cls = VGG
    smallest = "vgg11_bn"
    slim = {"mlp_ratio": 1 / 64}  # the first layer of the classifier has nine tenths of a VGG's parameters
    reference = "vgg16_bn"

    def sections(self, model: Model) -> list[list[str]]:
        """Stages 1 to 5 are the convs before each pool; stage 6 is the hidden layers of the classifier, if any."""
        convs = [[conv for conv, _ in group] for group in _between_pools(model) if group]
        return [*convs, ["pre_logits"]] if hasattr(model.pre_logits, "fc1") else convs

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """Use timm's method."""
        model._initialize_weights()

    def growth(self, small: Model, large: Model) -> Growth:
        """Convs are added before the pools. Each starts as the identity, which is exact because its input is a ReLU's.

        With batch norm this is exact in eval mode only: in train mode a norm removes the mean and scale of each batch.
        """
        plan = Growth()
        for old, new in zip(_between_pools(small), _between_pools(large), strict=True):
            if len(new) < len(old):
                raise ValueError(f"{len(old)} convs before a pool would become {len(new)}; a net cannot shrink")
            for index, (conv, norm) in enumerate(new):
                known = old[index] if index < len(old) else None
                if known is None:
                    plan.fresh += [name for name in (conv, norm) if name]
                    plan.passing.append((conv, norm))
                else:
                    plan.renamed |= {name: name_of for name, name_of in zip((conv, norm), known, strict=True) if name}
        return plan

    def spatial_convs(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """All convs of `features`."""
        for name, child in model.features.named_children():
            if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
                yield f"features.{name}", child


def _between_pools(model: Model) -> list[list[tuple[str, str]]]:
    """Names of the convs and of their norms, in one list per pool."""
    groups: list[list[tuple[str, str]]] = [[]]
    for name, child in model.features.named_children():
        if isinstance(child, nn.Conv2d):
            groups[-1].append((f"features.{name}", ""))
        elif hasattr(child, "running_var"):
            groups[-1][-1] = (groups[-1][-1][0], f"features.{name}")
        elif isinstance(child, nn.MaxPool2d):
            groups.append([])
    return groups
