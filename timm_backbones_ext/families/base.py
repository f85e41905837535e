"""The class of a family: what edits, weights, tests and tables need to know of one architecture."""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from torch import nn

from .._types import Model

__all__ = ["Family", "Slot"]


class Slot(NamedTuple):
    """Where a channel gate goes in a block."""

    owner: nn.Module
    attribute: str
    channels: int
    """Channels of the map that the gate multiplies."""


class Family:
    """A family of timm's models. A subclass says how timm lays it out; `register` makes it known."""

    name: ClassVar[str]
    cls: ClassVar[type[nn.Module]]
    """timm's class; a full model of the family is an instance of it."""
    smallest: ClassVar[str]
    """The architecture that tests build."""
    slim: ClassVar[dict[str, Any]] = {}
    """Arguments of `timm.create_model` that make the smallest architecture smaller still."""
    reference: ClassVar[str]
    """The architecture on which costs are stated."""

    @property
    def module(self) -> str:
        """Name of timm's module for the family, without the package: "resnet"."""
        return self.cls.__module__.rpartition(".")[2]

    def stages(self, model: Model) -> list[str]:
        """Names of the sequences of blocks, stage 1 first.

        Raises:
            ValueError: The family has no blocks.
        """
        raise ValueError(f"{self.name} has no blocks")

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """Initialise a model as timm does when it makes one; parameters have been reset by `reset_parameters`."""
        raise NotImplementedError

    def repair(self, model: Model) -> None:
        """Set right, in place, what timm builds wrong or in a form that others break; nothing by default."""

    def canonical(self, model: Model) -> None:
        """Bring a model, in place, into the form in which fingerprints are taken; as it is by default."""

    def slot(self, block: Any) -> Slot:
        """Where a channel gate goes in a block.

        Raises:
            ValueError: The family's blocks have no place for one.
        """
        raise ValueError(f"blocks of {self.name} have no place for attention")

    def convs_3x3(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """Names and modules of the dense 3x3 convs behind the stem.

        Raises:
            ValueError: The family has none.
        """
        raise ValueError(f"{self.name} has no dense 3x3 convs behind its stem")
