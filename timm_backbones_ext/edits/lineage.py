"""The rule of the first k edits: which state dicts load into an edited model.

A state dict fits if its keys and shapes are those of the base with the first k of the model's edits, for some k. It is
loaded into that model, then the other edits are applied, exactly as to a live model. A pre-hook of `load_state_dict`
applies the rule, so it holds for every way to load weights.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._types import Model
from ..errors import WeightsError
from .base import Edit

__all__ = ["Lineage", "mismatch", "same_shapes", "without_data"]

StateDict = Mapping[str, Tensor]


def without_data(model: Model) -> Model:
    """A copy of a model whose tensors are on the device `meta`."""
    memo: dict[int, Any] = {id(p): _empty_parameter(p) for p in model.parameters()}
    memo |= {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


def _empty_parameter(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


class Lineage:
    """The history of an edited model: its base on the device `meta`, and the edits applied to it."""

    def __init__(self, base: Model, edits: tuple[Edit, ...] = ()) -> None:
        self.base, self.edits = base, edits

    @classmethod
    def of(cls, model: Model) -> "Lineage":
        """The lineage of a model; a model without one becomes the base of a new lineage."""
        lineage = getattr(model, "lineage", None)
        return cls(without_data(model)) if lineage is None else lineage

    def attach(self, model: Model) -> None:
        """Let state dicts that fit the lineage load into a model."""
        if not hasattr(model, "lineage"):
            model.register_load_state_dict_pre_hook(_complete)
            model.load_state_dict = NamingLoad(model)
        model.lineage = self

    def fitted(self, state_dict: StateDict, num_classes: int) -> dict[str, Tensor]:
        """Complete a state dict of the base with the first k edits: tensors of later edits get the identity.

        Args:
            state_dict: Tensors by name, which are not changed; on `meta` for a check without data.
            num_classes: Classes of the model to load into, whose classifier may have been reset.

        Raises:
            ValueError: The state dict fits no k; the message lists missing, unknown and misshaped keys for the best k.
        """
        model, problems = without_data(self.base), []
        if model.num_classes != num_classes:
            model.reset_classifier(num_classes)
        for count in range(len(self.edits) + 1):
            if not (problem := mismatch(state_dict, model.state_dict())):
                model.load_state_dict(state_dict, strict=True, assign=True)
                for item in self.edits[count:]:
                    item.apply(model)
                return model.state_dict()
            problems.append(problem)
            if count < len(self.edits):
                self.edits[count].apply(model)
        raise ValueError(min(problems, key=len))


def _complete(
    model: Model,
    state_dict: dict[str, Tensor],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Turn a state dict of the base with the first k edits into one of the model; a pre-hook of `load_state_dict`."""
    got = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    lineage = model.lineage
    if not lineage.edits or same_shapes(got, model.state_dict()):
        return
    try:
        fitted = lineage.fitted(got, model.num_classes)
    except ValueError:  # torch reports the keys if the load is strict; a hook does not know that
        return
    for key in got:
        del state_dict[prefix + key]
    state_dict.update({prefix + key: value for key, value in fitted.items()})


class NamingLoad:
    """`model.load_state_dict` of an edited model: torch's method, with the rule in its error message."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, state_dict: StateDict, strict: bool = True, assign: bool = False) -> Any:
        model = self.model
        try:
            return type(model).load_state_dict(model, state_dict, strict, assign)
        except RuntimeError as error:
            edits = ", ".join(map(str, model.lineage.edits)) or "none left"
            raise WeightsError(
                f"{error}\n\tA state dict fits if its keys and shapes are those of the base with the first k of its "
                f"edits, for some k; the edits of this {type(model).__name__}: {edits}"
            ) from error


def same_shapes(a: StateDict, b: StateDict) -> bool:
    """Whether two state dicts have the same keys and shapes."""
    return a.keys() == b.keys() and all(value.shape == b[key].shape for key, value in a.items())


def mismatch(got: StateDict, expected: StateDict) -> str:
    """Text on the missing, unknown and misshaped keys of a state dict; empty if there are none."""
    shapes = [
        f"{key} {tuple(got[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in got and got[key].shape != expected[key].shape
    ]
    found = {
        "missing": [key for key in expected if key not in got],
        "unknown": [key for key in got if key not in expected],
        "misshaped": shapes,
    }
    return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items() if names)


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
