"""The class of a family: facts on its models for edits, weights, tests and tables."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import nn

from .._types import Model

__all__ = ["Family", "Growth", "Slot", "Widths"]


class Slot(NamedTuple):
    """Where a channel gate goes in a block."""

    owner: nn.Module
    attribute: str
    channels: int
    """Channels of the map that the gate multiplies."""


class Widths(NamedTuple):
    """Names of the groups of channels that a module reads and writes; empty if its number never grows."""

    reads: str = ""
    writes: str = ""


@dataclass
class Growth:
    """The plan to grow a smaller model of a family into a larger one that computes the same function."""

    fresh: list[str] = field(default_factory=list)
    """Modules of the larger model that the smaller one lacks."""
    silent: list[str] = field(default_factory=list)
    """Tensors of fresh modules that are set to zero, so that their residual branch adds zero."""
    passing: list[tuple[str, str]] = field(default_factory=list)
    """Fresh convs that start as the identity, each with its batch norm if it has one."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Modules of the larger model -> their names in the smaller one, where these differ."""
    widths: dict[str, Widths] = field(default_factory=dict)
    """Modules of the larger model -> the groups of channels that they read and write."""
    fixed: dict[str, str] = field(default_factory=dict)
    """First part of the name of a group of channels -> the reason why it cannot grow."""

    def wire(self, prefix: str, **modules: tuple[str, str]) -> None:
        """Set which channels the modules of a block read and write; `se__fc` stands for `se.fc`."""
        for name, (reads, writes) in modules.items():
            self.widths[f"{prefix}.{name.replace('__', '.')}"] = Widths(reads, writes)


class Family:
    """A family of timm's models. A subclass describes timm's layout; `register` adds it to `FAMILIES`."""

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

    def sections(self, model: Model) -> list[list[str]]:
        """Names of the modules of each stage that hold its convs and linear layers: the blocks, stage 1 first."""
        return [[f"{name}.{i}" for i in range(len(model.get_submodule(name)))] for name in self.stages(model)]

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """Initialise a model as timm's constructor does; `reset_parameters` of each module has run before."""
        raise NotImplementedError

    def repair(self, model: Model) -> None:
        """Correct, in place, modules that timm builds wrongly or that other libraries break; nothing by default."""

    def canonical(self, model: Model) -> None:
        """Bring a model, in place, into the form used for fingerprints; unchanged by default."""

    def growth(self, small: Model, large: Model) -> Growth:
        """The plan to grow `small` into `large`: blocks are added at the ends of stages, channels where `wire` allows.

        Raises:
            ValueError: A stage of `large` has fewer blocks, or there are fewer stages.
        """
        plan, stages = Growth(), self.stages(large)
        if len(stages) != len(self.stages(small)):
            raise ValueError(f"expected {len(self.stages(small))} stages; got {len(stages)}")
        for stage in stages:
            old, new = small.get_submodule(stage), large.get_submodule(stage)
            if len(new) < len(old):
                raise ValueError(f"{stage} has {len(old)} blocks and would have {len(new)}; a net cannot shrink")
            for index in range(len(old), len(new)):
                plan.fresh.append(f"{stage}.{index}")
                plan.silent += [f"{stage}.{index}.{name}" for name in self.last(new[index])]
        self.wire(plan, large)
        return plan

    def last(self, block: Any) -> list[str]:
        """The tensors of a residual block that make its branch add zero when they are zero."""
        raise NotImplementedError

    def wire(self, plan: Growth, model: Model) -> None:
        """Add to a plan which channels of a model may grow; none by default."""

    def slot(self, block: Any) -> Slot | None:
        """The place for a channel gate in a block; None if the block has no place or already has attention.

        Raises:
            ValueError: No block of the family has a place for a channel gate.
        """
        raise ValueError(f"blocks of {self.name} have no place for attention")

    def spatial_convs(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """Names and modules of the convs after the stem that are larger than 1x1; `rep` adds branches to them.

        Raises:
            ValueError: The family has no such convs.
        """
        raise ValueError(f"{self.name} has no convs for parallel branches")

    def norm_after(self, model: Model, conv: str) -> Any:
        """The batch norm that follows a conv without a bias.

        Raises:
            ValueError: No batch norm follows a conv of this family.
        """
        raise ValueError(f"no batch norm follows {conv} of a {self.name}")
