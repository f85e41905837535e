"""The law of the house as checks that any edit can be put through, also one from outside the package.

    def test_my_edit_keeps_the_law():
        check_edit(MyEdit())

Each check raises AssertionError with what was expected and what came.
"""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ._types import Model
from .edits import Edit, edit, parse
from .fingerprint import compare, unwrap
from .hub.folder import FILES, check_folder, save
from .registry import BUILT_IN
from .weights import WeightsError

__all__ = [
    "BASES",
    "calibrate",
    "check_edit",
    "check_gradients",
    "check_identity",
    "check_pretrained",
    "check_saving",
    "image",
    "outputs",
]

BASES = {"resnet": "resnet18", "convnext": "convnext_atto", "efficientnet": "efficientnet_b0", "vgg": "vgg11_bn"}
"""The smallest member of each family."""


def check_edit(item: str | Edit) -> None:
    """Put an edit through every check, on the smallest member of each of its families.

    Raises:
        AssertionError: The edit breaks the law; the message says which part.
    """
    (item,) = parse(item)
    for family in item.families:
        base = BASES[family]
        check_identity(base, item)
        check_gradients(base, item)
        if f"ext_{base}" in BUILT_IN:
            check_pretrained(f"ext_{base}", item)
            check_saving(f"ext_{base}", item)


def calibrate(model: Model, seed: int = 0) -> Model:
    """Give a model norm weights and statistics as after training, so that no branch is silent and outputs are near 1.

    Zero-initialised last norms would hide whatever an edit does inside a residual branch.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    with torch.no_grad():
        for norm in norms:
            if getattr(norm, "weight", None) is not None:
                norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator) - 0.5)
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
    """Every feature level, then what the full model gives."""
    last, maps = model.forward_intermediates(x)
    return [*maps, model.forward_head(last)]


def _pairs(base: str, item: Edit, dtype: torch.dtype, **kwargs: Any) -> tuple[Model, Model]:
    torch.manual_seed(0)
    plain = calibrate(timm.create_model(base, **kwargs)).to(dtype).eval()
    return plain, edit(copy.deepcopy(plain), item).eval()


def check_identity(base: str, item: str | Edit) -> None:
    """The edited model gives the base's logits and feature maps, for any content of channels that the base lacks."""
    (item,) = parse(item)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        plain, edited = _pairs(base, item, dtype, num_classes=10)
        for training in (False, True) if item.exact == "eval+train" else (False,):
            for size in ((64, 64), (75, 50)):
                x = image(edited, *size, batch=2)
                expected = outputs(plain.train(training), x[:, : plain.in_chans])
                for level, (got, wanted) in enumerate(zip(outputs(edited.train(training), x), expected, strict=True)):
                    error = ((got - wanted).abs().max() / wanted.abs().max()).item()
                    if not error <= tolerance:
                        mode = "train" if training else "eval"
                        raise AssertionError(
                            f"{item} on {base}, {dtype}, {mode} mode, {size} px, output {level}: "
                            f"relative difference {error:.1e} exceeds {tolerance:.0e}"
                        )


def check_gradients(base: str, item: str | Edit) -> None:
    """Every new parameter gets a gradient within three SGD steps; those of step 0 are finite and below 1e3."""
    (item,) = parse(item)
    plain, edited = _pairs(base, item, torch.float32, num_classes=10)
    new = {name: p for name, p in edited.named_parameters() if name not in dict(plain.named_parameters())}
    optimizer = torch.optim.SGD(edited.train().parameters(), lr=1e-2)
    x, target = image(edited, 64, 64, batch=4), torch.arange(4)
    alive: set[str] = set()
    for step in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(edited(x), target).backward()
        norms = {name: p.grad.norm().item() if p.grad is not None else 0.0 for name, p in new.items()}
        if step == 0 and (wild := {name: norm for name, norm in norms.items() if not norm < 1e3}):
            raise AssertionError(f"{item} on {base}: gradient norms at step 0 of 1e3 or more: {wild}")
        alive |= {name for name, norm in norms.items() if norm > 0}
        optimizer.step()
    if dead := sorted(new.keys() - alive):
        raise AssertionError(f"{item} on {base}: no gradient in three steps for {', '.join(dead)}")


def check_pretrained(name: str, item: str | Edit) -> None:
    """Base weights load bit-identical beside the identity; a missing, unknown or misshaped key is an error."""
    weights = calibrate(timm.create_model(name)).state_dict()

    def load(state_dict: dict[str, Tensor], **kwargs: Any) -> Model:
        source = {"state_dict": {key: value.clone() for key, value in state_dict.items()}}
        return timm.create_model(name, pretrained=True, edits=[item], pretrained_cfg_overlay=source, **kwargs)

    fresh = edit(timm.create_model(name), item).state_dict()
    for key, value in load(weights).state_dict().items():
        if key in weights and weights[key].shape == value.shape:
            _same(f"{name} with {item}: {key}", value, weights[key])
        elif key not in weights:
            _same(f"{name} with {item}: new tensor {key}", value, fresh[key])
    for wrong, kwargs in _spoilt(weights):
        try:
            load(wrong, **kwargs)
        except WeightsError:
            continue
        raise AssertionError(f"{name} with {item} loaded a checkpoint with a missing, unknown or misshaped key")


def _spoilt(weights: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Checkpoints with one key missing, added or misshaped, for the full model and for its feature maps."""
    first = next(iter(weights))
    missing = {key: value for key, value in weights.items() if key != first}
    for kwargs in ({}, {"features_only": True}):
        yield missing, kwargs
        yield {**weights, "unknown.weight": weights[first]}, kwargs
        yield {**weights, first: weights[first][..., :-1]}, kwargs


def _same(what: str, got: Tensor, expected: Tensor) -> None:
    if not torch.equal(got, expected):
        raise AssertionError(f"{what} differs by {(got - expected).abs().max().item():.1e}; it should be bit-identical")


def check_saving(name: str, item: str | Edit) -> None:
    """Save, load and save gives the same bytes, a verified model with its edits, and the live model's features."""
    model = calibrate(timm.create_model(name, edits=[item], num_classes=10)).eval()
    with tempfile.TemporaryDirectory() as scratch:
        first, second = Path(scratch, "first"), Path(scratch, "second")
        save(model, first)
        if not (report := check_folder(first)).same:
            raise AssertionError(f"{name} with {item}: what was saved is not what was there: {report}")
        again = timm.create_model(f"local-dir:{first}", pretrained=True).eval()
        save(again, second)
        for file in FILES:
            if (first / file).read_bytes() != (second / file).read_bytes():
                raise AssertionError(f"{name} with {item}: {file} changes when the model is loaded and saved again")
        features = timm.create_model(f"local-dir:{first}", pretrained=True, features_only=True)
        if not (
            report := compare(unwrap(features), timm.create_model(f"local-dir:{first}", pretrained=True, num_classes=0))
        ).same:
            raise AssertionError(f"{name} with {item}: the features of the saved model are not its own: {report}")
        if again.edits != model.edits:
            raise AssertionError(f"{name}: edits {model.edits} came back as {again.edits}")
