"""`fuse`: a copy of a model that computes the same in less time, in plain eager PyTorch."""

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..._types import Model
from ...errors import BackboneError
from . import onednn
from .folding import fold
from .fused_layers import Packed
from .graphs import Traced, listed, trace
from .rewriting import rewrite
from .winograd import WinogradConv2d

__all__ = ["Fused", "FusedReport", "folded", "fuse"]

TOLERANCE = 1e-5
"""Relative difference to the model in float64 that is allowed, unless the model's own rounding is near it."""
WAYS = {
    4: "Winograd's algorithm F(4, 3)",
    2: "Winograd's algorithm F(2, 3)",
    0: "oneDNN's fused operators",
    None: "torch's own convs",
}
EXACT = 1e-9
"""The same for folding in float64."""
SHARED = (
    *("feature_info", "out_channels", "strides", "size_divisibility", "names", "num_classes", "num_features"),
    *("in_chans", "pretrained_cfg", "default_cfg", "head_hidden_size"),
)
"""Attributes that a fused model has if the model that it was made of has them."""


@dataclass(frozen=True)
class FusedReport:
    """What `fuse` did to a model, by the names of its modules."""

    folded: tuple[str, ...]
    """Norms that are now part of the conv before them."""
    rewritten: tuple[str, ...]
    """Convs and blocks that run by fused operators."""
    left: dict[str, str]
    """Modules that stay as they were, and why."""
    error: float
    """Largest relative difference over all maps to the model in float64, on a small image."""
    way: str
    """What the convs run by."""

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} norms folded, {len(self.rewritten)} modules rewritten, error {self.error:.1e}"]
        return "\n".join([*lines, *(f"left: {name}: {why}" for name, why in self.left.items())])


class Fused(nn.Module):
    """A fused model: the same outputs in the same containers, without the model's other methods.

    Attributes:
        fused: What was done, and what stayed as it was.
        limit: The error up to which `fuse` accepts it.
    """

    def __init__(self, graph: fx.GraphModule, like: Model, out: Any, report: FusedReport, limit: float) -> None:
        super().__init__()
        self.graph, self.fused, self.limit = graph, report, limit
        self.keys = list(out) if isinstance(out, dict) else None
        self.container = type(out)
        for name in SHARED:
            if hasattr(like, name):
                setattr(self, name, copy.deepcopy(getattr(like, name)))
        if hasattr(like, "output_shape"):
            self.output_shape = functools.partial(dict, like.output_shape())
        super().train(False)

    def forward(self, x: Tensor) -> Any:
        """(N, C, H, W) -> what the model gives."""
        out = self.graph(x)
        return out if self.keys is None else self.container(zip(self.keys, out))

    def train(self, mode: bool = True) -> "Fused":
        """Raise an error for True: norms are gone."""
        if mode:
            raise ValueError("a fused model is for inference: train the model that it was made of, then fuse again")
        return super().train(mode)


def fuse(model: Model, *, winograd: bool = True) -> Fused:
    """A copy of a model that computes the same in less time: plain eager PyTorch, without a compiler.

    Branches are merged and batch norms folded, in float64 with one rounding. For float32 on the CPU, convs, with the
    activation and the sum that follow them, run by oneDNN's fused operators on channels-last maps, ConvNeXt blocks
    stay channels-last and compute their MLP in chunks, and channel gates multiply the next weight. The result is
    compared with the model on a small image before it is returned.

    Args:
        model: A timm model, a `features_only` model or a `Pyramid`, in eval mode. It is not changed.
        winograd: Run 3x3 convs by Winograd's algorithm where a measurement on the first image of a size, in the first
            call with it, says that this is faster; it rounds more, within the same limit.

    Returns:
        The fused copy. `fused` says what was done, and what stayed as it was. Maps may be channels-last in memory.

    Raises:
        ValueError: The model is in training mode, its tensors are not finite, on `meta` or of different dtypes, or its
            forward cannot be followed.
        BackboneError: The fused model computes something else.
    """
    weight = _checked(model)
    return _first_right(model, weight, _ways(weight, winograd=winograd))


def folded(model: Model) -> Fused:
    """As `fuse`, without oneDNN's operators: the form that other runtimes take, and that 16-bit weights need."""
    return _first_right(model, _checked(model), [None])


def _first_right(model: Model, weight: Tensor, ways: list[int | None]) -> Fused:
    """A copy by the first of some ways that computes what the model computes."""
    refused: dict[str, str] = {}
    with torch.no_grad():
        for tile in ways:
            made = _made(model, weight, tile)
            if made.fused.error <= made.limit:
                made.fused.left.update(refused)
                return made
            refused[WAYS[tile]] = f"changes what the model computes by {made.fused.error:.1e}"
    raise BackboneError(
        f"fusing changes what {type(model).__name__} computes by more than {made.limit:.1e}, relative: {refused}. "
        "Nothing was returned, and the model is unchanged: please report it"
    )


def _ways(weight: Tensor, *, winograd: bool) -> list[int | None]:
    """What to try, the fastest first: tiles of 4 or 2, fused operators without tiles (0), folding alone (None)."""
    if weight.dtype is not torch.float32 or weight.device.type != "cpu" or not onednn.available():
        return [None]
    return [4, 2, 0, None] if winograd else [0, None]


def _made(model: Model, weight: Tensor, tile: int | None) -> "Fused":
    """A fused copy, and how far it is from the model in float64."""
    x, twin = _image(model), _copied(model).double()
    out = twin(x)
    expected = listed(out)
    own = _error(listed(_copied(model)(x.to(weight.dtype))), expected)
    traced = trace(twin)
    folded, left = fold(traced.graph)
    exact = _error(listed(traced.graph(x)), expected)
    traced.graph.to(weight.dtype).requires_grad_(False)
    rewritten, stay = ([], {}) if tile is None else rewrite(traced.graph, x.float(), tile)
    convs = [module for module in traced.graph.modules() if isinstance(module, WinogradConv2d)]
    for conv in convs:
        conv.always = True
    error = _error(listed(traced.graph(x.to(weight.dtype))), expected)
    error = error if exact <= EXACT else max(error, exact)
    for conv in convs:
        conv.always = False
    for module in traced.graph.modules():
        if isinstance(module, Packed):
            module.unpack()  # the check's image is small
    report = _report(traced, folded, rewritten, left | stay, error, WAYS[tile])
    return Fused(
        traced.graph.to(weight.device), model, out, report, EXACT if exact > EXACT else max(TOLERANCE, 5 * own)
    )


def _report(
    traced: Traced, folded: list[str], rewritten: list[str], left: dict[str, str], error: float, way: str
) -> FusedReport:
    def named(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(traced.names.get(name, name) for name in names)

    stay = dict(zip(named(left), left.values(), strict=True))
    return FusedReport(named(folded), named(rewritten), {**traced.untraced, **stay}, error, way)


def _checked(model: Model) -> Tensor:
    """A weight of the model, which can be fused as far as its state tells.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(model, Fused):
        raise ValueError("the model is fused already")
    if any(module.training for module in model.modules()):
        raise ValueError("fuse expects a model in eval mode, since norms are folded; call model.eval() first")
    tensors = [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()]
    if not tensors:
        raise ValueError(f"fuse expects a timm model with weights; got {type(model).__name__} without any")
    if any(tensor.is_meta for _, tensor in tensors):
        raise ValueError("fuse expects a model with data; got one on the device 'meta': load weights first")
    if bad := [name for name, tensor in tensors if not tensor.isfinite().all()]:
        raise ValueError(f"fuse expects finite weights; NaN or infinity in {', '.join(bad[:5])}")
    if len(dtypes := {tensor.dtype for _, tensor in tensors}) > 1:
        raise ValueError(f"fuse expects weights of one dtype; got {', '.join(sorted(map(str, dtypes)))}")
    return tensors[0][1]


def _copied(model: Model) -> Model:
    """A copy on the CPU, in eval mode: a copied torch.fx graph comes back in training mode."""
    return copy.deepcopy(model).to("cpu").eval()


def _image(model: Model) -> Tensor:
    """(1, C, 64, 96) of normal numbers in float64."""
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, first.in_channels, 64, 96, generator=generator, dtype=torch.float64)


def _error(got: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference over all maps, relative to the largest value of the map."""
    if [tuple(g.shape) for g in got] != [tuple(e.shape) for e in expected]:
        return float("inf")
    return max(((g.double() - e).abs().max() / e.abs().max().clamp_min(1e-30)).item() for g, e in zip(got, expected))
