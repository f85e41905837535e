"""Checks for any edit, also one from outside the package: an edited model computes what its base computes.

    def test_my_edit_keeps_the_law():
        check_edit(MyEdit())

Each check raises AssertionError with what was expected and what came.
"""

import copy
import functools
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ._types import Model
from .edits import Edit, edit, merge, parse_edits
from .errors import WeightsError
from .families import FAMILIES
from .features import wrap
from .saving.folder import check_folder, save
from .saving.identity import identify
from .weights.files import FILES

__all__ = [
    "base_for",
    "calibrate",
    "check_edit",
    "check_gradients",
    "check_identity",
    "check_merging",
    "check_pretrained",
    "check_saving",
    "create",
    "image",
    "largest",
    "outputs",
    "seen_by_base",
    "trained",
]


def check_edit(item: str | Edit | type[Edit]) -> None:
    """Run every check on an edit, with the smallest architecture of each of its families.

    Args:
        item: An edit, its text, or its class (for the class's simplest form).

    Raises:
        AssertionError: A check failed; the message says which.
    """
    (item,) = parse_edits(item.example if isinstance(item, type) else item)
    for family in item.families:
        base = base_for(family, item)
        check_identity(base, item)
        check_gradients(base, item)
        check_merging(base, item)
        check_pretrained(base, item)
        check_saving(base, item)


def base_for(family: str, item: Edit) -> str:
    """The smallest timm architecture of a family that an edit can be applied to."""
    return item.tried_on.get(family, FAMILIES[family].smallest)


def calibrate(model: Model, seed: int = 0) -> Model:
    """Set norm weights and running statistics as after training, so that no branch is zero and outputs are near 1.

    A last norm with weight zero would hide errors of an edit inside the residual branch.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    with torch.no_grad():
        for norm in norms:
            if getattr(norm, "weight", None) is not None:
                norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator) - 0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(".gamma"):  # LayerScale
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
        training = model.training
        momenta = {norm: norm.momentum for norm in norms if hasattr(norm, "momentum")}
        for norm in momenta:
            norm.momentum = 1.0
        model.train()(image(model, 64, 64, batch=4))
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        return model.train(training)


def image(model: Model, height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    """(batch, C, height, width) of normal numbers with the model's channels and dtype."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, model.in_chans, height, width, generator=generator, dtype=torch.float64)
    return x.to(next(model.parameters()).dtype)


def outputs(model: Model, x: Tensor) -> list[Tensor]:
    """The map of every feature level, then the output of the full model."""
    last, maps = model.forward_intermediates(x)
    return [*maps, model.forward_head(last)]


def create(name: str, **kwargs: Any) -> Model:
    """A model for a test, made smaller by `Family.slim` if it is the family's smallest architecture."""
    plain = name.removeprefix("ext_")
    slim = next((family.slim for family in FAMILIES.values() if family.smallest == plain), {})
    return timm.create_model(name, **slim, **kwargs)


@functools.cache
def _calibrated(base: str, **kwargs: Any) -> Model:
    torch.manual_seed(0)
    return calibrate(create(base, **kwargs)).eval()


def trained(base: str, **kwargs: Any) -> Model:
    """A calibrated model; it is calibrated once per process, and each call returns a new copy."""
    return copy.deepcopy(_calibrated(base, **kwargs))


def _pair(base: str, item: Edit, dtype: torch.dtype, seed: int = 0) -> tuple[Model, Model]:
    plain = trained(base, num_classes=10).to(dtype)
    torch.manual_seed(seed)
    return plain, edit(copy.deepcopy(plain), item).eval()


def check_identity(base: str, item: str | Edit) -> None:
    """The edited model gives the base's logits and feature maps, for any values of added input channels."""
    (item,) = parse_edits(item)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        plain, edited = _pair(base, item, dtype)
        for training in (False, True) if item.exact == "eval+train" else (False,):
            for size in ((64, 64), (75, 50)) if item.multiple == 1 else ((64, 64), (32, 96)):
                x = image(edited, *size, batch=2)
                expected = outputs(plain.train(training), seen_by_base(x, plain, item))
                error = largest(outputs(edited.train(training), x), expected, sampling=item.sampling)
                if not error <= tolerance:
                    mode = "train" if training else "eval"
                    raise AssertionError(
                        f"{item} on {base}, {dtype}, {mode} mode, {size} px: "
                        f"relative difference {error:.1e} exceeds {tolerance:.0e}"
                    )


def seen_by_base(x: Tensor, plain: Model, item: Edit) -> Tensor:
    """The image for the base that corresponds to the image `x` for the edited model."""
    return x.expand(-1, plain.in_chans, -1, -1) if item.content == "grey" else x[:, : plain.in_chans]


def largest(got: list[Tensor], expected: list[Tensor], *, sampling: bool = False) -> float:
    """Largest relative difference of two lists of outputs; `sampling` compares maps at the positions of `expected`."""
    if sampling:
        steps = [level.shape[-1] // wanted.shape[-1] for level, wanted in zip(got[:-1], expected, strict=False)]
        got = [level[..., ::step, ::step] for level, step in zip(got, steps, strict=False)]
    pairs = zip(got, expected, strict=not sampling)
    return max(((level - wanted).abs().max() / wanted.abs().max()).item() for level, wanted in pairs)


def check_gradients(base: str, item: str | Edit) -> None:
    """Every new parameter gets a gradient within three SGD steps; those of step 0 are finite and below 1e3.

    A unit after a ReLU may be dead by chance, so three seeds are tried before a parameter counts as dead.
    """
    (item,) = parse_edits(item)
    dead = _dead(base, item, seed=0)
    for seed in (1, 2):
        dead = dead and dead & _dead(base, item, seed)
    if dead:
        raise AssertionError(f"{item} on {base}: no gradient in three steps for {', '.join(sorted(dead))}")


def _dead(base: str, item: Edit, seed: int) -> set[str]:
    """New parameters without a gradient in three steps."""
    plain, edited = _pair(base, item, torch.float32, seed)
    first: dict[str, float] = {}
    alive: set[str] = set()
    for norms in _train(edited, _new_elements(plain, edited), maps_only=item.maps_only):
        first = first or norms
        alive |= {name for name, norm in norms.items() if norm > 0}
    if wild := {name: norm for name, norm in first.items() if not norm < 1e3}:
        raise AssertionError(f"{item} on {base}: gradient norms at step 0 of 1e3 or more: {wild}")
    return first.keys() - alive


def _new_elements(plain: Model, edited: Model) -> dict[str, Tensor]:
    """Masks of the elements that an edit added: whole parameters, and the border of those that it made larger."""
    old = dict(plain.named_parameters())
    masks = {}
    for name, parameter in edited.named_parameters():
        if name not in old:
            masks[name] = torch.ones_like(parameter, dtype=torch.bool)
        elif parameter.numel() > old[name].numel():
            masks[name] = parameter.detach() == 0
    return masks


def _train(model: Model, masks: dict[str, Tensor], *, maps_only: bool = False) -> Iterator[dict[str, float]]:
    """Take three SGD steps; the gradient norms of the masked elements at each."""
    trained = wrap(copy.copy(model)) if maps_only else model
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-2)
    grown = any(mask[:, 0].any() for mask in masks.values() if not mask.all())  # kernels grew, not only input channels
    side = 160 if grown else 64  # pixels; so large that the border of a grown kernel reads inside the last maps
    x, target = image(model, side, side, batch=4), torch.arange(4)
    for _ in range(3):
        optimizer.zero_grad()
        out = trained(x)
        loss = sum(level[:, :1].mean() for level in out) if maps_only else nn.functional.cross_entropy(out, target)
        loss.backward()
        gradients = {name: model.get_parameter(name).grad for name in masks}
        yield {name: 0.0 if g is None else g[masks[name]].norm().item() for name, g in gradients.items()}
        optimizer.step()


def check_merging(base: str, item: str | Edit) -> None:
    """Merging a trained edit gives the base's modules and keys and keeps the outputs; for edits that can be merged."""
    (item,) = parse_edits(item)
    if not item.merges():
        return
    plain, edited = _pair(base, item, torch.float64)
    list(_train(edited, {}))
    x = image(edited.eval(), 75, 50, batch=2)
    expected = outputs(edited, x)
    merged = merge(copy.deepcopy(edited))
    if str(merged) != str(plain) or merged.state_dict().keys() != plain.state_dict().keys() or merged.edits:
        raise AssertionError(f"{item} on {base}: the merged model has other modules or keys than the base")
    if not (error := largest(outputs(merged, x), expected)) <= 1e-9:
        raise AssertionError(f"{item} on {base}: merging changes outputs by {error:.1e}, relative")
    if not largest(outputs(merged, x), outputs(plain.eval(), x)) > 1e-6:
        raise AssertionError(f"{item} on {base}: nothing was learned, so that merging was not tried")


def check_pretrained(base: str, item: str | Edit) -> None:
    """Base weights load bit-identical, new tensors at the identity; a missing, unknown or misshaped key is an error."""
    (item,) = parse_edits(item)
    weights = trained(base).state_dict()
    name, extra = _named(base, item)

    def load(state_dict: dict[str, Tensor], **kwargs: Any) -> Model:
        source = {"state_dict": {key: value.clone() for key, value in state_dict.items()}}
        torch.manual_seed(0)  # so that new tensors get the same values each time
        return create(name, pretrained=True, edits=extra, pretrained_cfg_overlay=source, **kwargs)

    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    fresh, loaded = load(zeros).state_dict(), load(weights).state_dict()
    for key, value in loaded.items():
        if key not in weights:
            _require(torch.equal(value, fresh[key]), f"{name} with {item}: {key}, new, depends on the base's weights")
        elif weights[key].shape == value.shape:
            _require(torch.equal(value, weights[key]), f"{name} with {item}: {key} should be bit-identical")
        elif item.content == "grey":
            total = weights[key].sum(1, keepdim=True)
            _require(torch.equal(value, total), f"{name} with {item}: {key} should be the sum over the base's channels")
        else:
            _require(_surrounded(value, weights[key]), f"{name} with {item}: {key} should be the base's in zeros")
    for wrong, kwargs in _spoilt(weights):
        try:
            load(wrong, **kwargs)
        except WeightsError:
            continue
        raise AssertionError(f"{name} with {item} loaded a checkpoint with a missing, unknown or misshaped key")


def _named(base: str, item: Edit) -> tuple[str, list[Edit]]:
    """A registered name for the base, and the edits to pass: none if the name includes the edit."""
    identity = identify(edit(create(base), item))
    return identity.architecture, list(parse_edits(identity.extra))


def _surrounded(value: Tensor, old: Tensor) -> bool:
    """Whether a tensor is the smaller tensor `old` with zeros around it."""
    spare = [range(new - size + 1) for new, size in zip(value.shape, old.shape, strict=True)]
    windows = (tuple(slice(o, o + n) for o, n in zip(at, old.shape, strict=True)) for at in itertools.product(*spare))
    return int(value.count_nonzero()) == int(old.count_nonzero()) and any(torch.equal(value[w], old) for w in windows)


def _spoilt(weights: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Checkpoints with one key missing, added or misshaped, for the full model and for its feature maps."""
    first = next(iter(weights))
    missing = {key: value for key, value in weights.items() if key != first}
    for kwargs in ({}, {"features_only": True}):
        yield missing, kwargs
        yield {**weights, "unknown.weight": weights[first]}, kwargs
        yield {**weights, first: weights[first][..., :-1]}, kwargs


def _require(fact: bool, otherwise: str) -> None:
    if not fact:
        raise AssertionError(otherwise)


def check_saving(base: str, item: str | Edit) -> None:
    """Save, load and save gives the same bytes; the loaded model verifies and has the edits and the features."""
    (item,) = parse_edits(item)
    model = edit(trained(base, num_classes=10), item).eval()
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch, "first"), Path(scratch, "second")
        save(model, first)
        report = check_folder(first)
        _require(report.same, f"{base} with {item}: what was saved is not what was there: {report}")
        again = timm.create_model(f"local-dir:{first}", pretrained=True).eval()
        save(again, second)
        for file in FILES:
            same = (first / file).read_bytes() == (second / file).read_bytes()
            _require(same, f"{base} with {item}: {file} changes when the model is loaded and saved again")
        features = timm.create_model(f"local-dir:{first}", pretrained=True, features_only=True).eval()
        x = image(model, 64, 64)
        error = largest(list(features(x)), list(wrap(copy.deepcopy(model)).eval()(x)))
        _require(error <= 1e-5, f"{base} with {item}: features of the saved model differ by {error:.1e}, relative")
        _require(again.edits == model.edits, f"{base}: edits {model.edits} came back as {again.edits}")
