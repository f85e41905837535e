"""The class of a family: what edits, weights, tests and tables need to know of one architecture."""

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
    """The spaces of channels that a module reads from and writes to; empty for those that never differ."""

    reads: str = ""
    writes: str = ""


@dataclass
class Growth:
    """How a smaller member of a family becomes a larger one that computes the same."""

    fresh: list[str] = field(default_factory=list)
    """Modules of the larger one that the smaller one lacks."""
    silent: list[str] = field(default_factory=list)
    """Tensors of fresh modules that are set to zero, so that a residual branch adds nothing."""
    passing: list[tuple[str, str]] = field(default_factory=list)
    """Fresh convs that pass on what they get, each with the batch norm that follows, if one does."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Modules of the larger one -> their names in the smaller one, where these differ."""
    widths: dict[str, Widths] = field(default_factory=dict)
    """Modules of the larger one -> their spaces."""
    fixed: dict[str, str] = field(default_factory=dict)
    """First part of a space's name -> why it cannot grow."""

    def wire(self, prefix: str, **modules: tuple[str, str]) -> None:
        """Say what modules of a block read and write; `se__fc` stands for `se.fc`."""
        for name, (reads, writes) in modules.items():
            self.widths[f"{prefix}.{name.replace('__', '.')}"] = Widths(reads, writes)


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

    def sections(self, model: Model) -> list[list[str]]:
        """Names of the modules of each stage that hold its convs and linear layers: the blocks, stage 1 first."""
        return [[f"{name}.{i}" for i in range(len(model.get_submodule(name)))] for name in self.stages(model)]

    def initialise(self, model: Model, *args: Any, **kwargs: Any) -> None:
        """Initialise a model as timm does when it makes one; parameters have been reset by `reset_parameters`."""
        raise NotImplementedError

    def repair(self, model: Model) -> None:
        """Set right, in place, what timm builds wrong or in a form that others break; nothing by default."""

    def canonical(self, model: Model) -> None:
        """Bring a model, in place, into the form in which fingerprints are taken; as it is by default."""

    def growth(self, small: Model, large: Model) -> Growth:
        """How `small` becomes `large`: blocks are added at the ends of stages, channels where `wire` says so.

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
        """The tensors of a residual block that silence its branch when they are zero."""
        raise NotImplementedError

    def wire(self, plan: Growth, model: Model) -> None:
        """Say which channels of a model may grow; none by default."""

    def slot(self, block: Any) -> Slot | None:
        """Where a channel gate goes in a block; None for a block that has no place or has attention of its own.

        Raises:
            ValueError: The family's blocks have no place for one.
        """
        raise ValueError(f"blocks of {self.name} have no place for attention")

    def spatial_convs(self, model: Model) -> Iterator[tuple[str, nn.Conv2d]]:
        """Names and modules of the convs behind the stem that `rep` gives branches: those larger than 1x1.

        Raises:
            ValueError: The family has none.
        """
        raise ValueError(f"{self.name} has no convs for parallel branches")

    def norm_after(self, model: Model, conv: str) -> Any:
        """The batch norm that follows a conv without a bias.

        Raises:
            ValueError: No batch norm follows a conv of this family.
        """
        raise ValueError(f"no batch norm follows {conv} of a {self.name}")
