"""Parallel branches that merge away: ACNet (https://arxiv.org/abs/1908.03930) and DBB (https://arxiv.org/abs/2103.13425)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._types import Model
from ..families import family_of
from ..layers import ExtendedConv2d
from .base import Edit, register_edit

__all__ = ["BranchEdit", "Rep"]


class BranchEdit(Edit):
    """Base class: branches parallel to convs, each with a batch norm that starts at weight zero; `merge` folds them."""

    def convs(self, model: Model) -> Iterator[tuple[str, Any]]:
        """Names and modules of the convs that get branches."""
        raise NotImplementedError

    def branches(self, conv: nn.Conv2d) -> dict[str, tuple[tuple[int, int], int]]:
        """Name, kernel size and dilation of each branch."""
        raise NotImplementedError

    def apply(self, model: Model) -> None:
        """Add the branches to every conv."""
        convs = list(self.convs(model))
        if not convs:
            raise ValueError(f"{self.name}: the model has no conv there that is large enough for branches")
        for name, conv in convs:
            try:
                extended = ExtendedConv2d.replacing(conv)
                if extended.branches:
                    raise ValueError("it has branches already")
                for branch, (kernel_size, dilation) in self.branches(conv).items():
                    extended.add_branch(branch, kernel_size, dilation)
            except ValueError as error:
                raise ValueError(f"{self.name}: cannot add branches to {name}: {error}") from error
            model.set_submodule(name, extended)

    def merge(self, model: Model) -> None:
        """Fold the branches into their convs; their constant goes into the bias, or into the norm after the conv."""
        for name, conv in list(self.convs(model)):
            shift = conv.merge_branches()
            if conv.bias is None:
                _lower_mean(family_of(model).norm_after(model, name), shift)
            else:
                conv.bias = nn.Parameter((conv.bias.detach() + shift).to(conv.bias), conv.bias.requires_grad)
            model.set_submodule(name, conv.simplest())


def _lower_mean(norm: Any, shift: Tensor) -> None:
    """Let a batch norm add `shift` to its input."""
    norm.running_mean = (norm.running_mean - shift).to(norm.running_mean)


@register_edit(
    families=("resnet", "efficientnet", "vgg"),
    exact="eval+train",
    evidence="from scratch: ResNet-18 69.54 -> 70.99 % top-1 on ImageNet (DBB, Table 2); none for depthwise convs",
)
@dataclass(frozen=True)
class Rep(BranchEdit):
    """Branches of 1x1, 1xk and kx1, parallel to every kxk conv after the stem; `merge` folds them in.

    Edited are the 3x3 convs of a ResNet or VGG, and the depthwise convs of an EfficientNet (in fused blocks, the dense
    convs).
    """

    def convs(self, model: Model) -> Iterator[tuple[str, Any]]:
        """All convs after the stem that are larger than 1x1."""
        return family_of(model).spatial_convs(model)

    def branches(self, conv: nn.Conv2d) -> dict[str, tuple[tuple[int, int], int]]:
        """1x1, 1xk and kx1."""
        rows, columns = conv.kernel_size
        return {"k1x1": ((1, 1), 1), f"k1x{columns}": ((1, columns), 1), f"k{rows}x1": ((rows, 1), 1)}
