"""Fingerprints of models: a few kilobytes of statistics that can be compared on another machine.

The inputs are fixed images of two sizes; the model runs in eval mode and float32 on the CPU. Three numbers describe the
output of every conv, linear, norm and activation, of every feature level and of the classifier: the mean, the root mean
square, and a projection on a fixed direction. The last maps alone are not enough: ReLU instead of GELU changes those of
an untrained ConvNeXt by only 4e-7.
"""

import copy
import hashlib
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from timm.layers import activations, activations_me
from torch import Tensor, nn

from ._types import Model
from .console import html_table
from .families import FAMILIES
from .weights.files import write_safetensors

__all__ = ["SIZES", "TOLERANCE", "Fingerprint", "Report", "compare", "digest", "fingerprint", "unwrap"]

SIZES = ((64, 64), (57, 75))  # (H, W) in pixels; the second is odd, to show differences in padding
TOLERANCE = 1e-4  # relative; rounding differs by less than 1e-5 between machines, numbers of threads and memory formats
FORMAT = "1"
_ACTIVATIONS = tuple(
    cls
    for module in (nn.modules.activation, activations, activations_me)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module.__name__
)
_OBSERVED = (nn.modules.conv._ConvNd, nn.Linear, *_ACTIVATIONS)


@dataclass(frozen=True)
class Fingerprint:
    """Statistics of every observed output, in the order of execution."""

    names: tuple[str, ...]
    """Names of the modules of the full model, then `level 0` ... and `logits`."""
    statistics: Tensor
    """(len(names), len(SIZES), 3): mean, root mean square and projection, float32."""
    digest: str
    """sha256 of the keys, shapes and dtypes of the state dict."""

    def save(self, path: str | Path) -> None:
        """Write the fingerprint as a safetensors file."""
        metadata = {"format": FORMAT, "names": "\n".join(self.names), "digest": self.digest}
        write_safetensors({"statistics": self.statistics}, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Fingerprint":
        """Read a fingerprint that `save` wrote.

        Raises:
            ValueError: The file is not a fingerprint, or has another format version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata, statistics = file.metadata() or {}, file.get_tensor("statistics")
        except SafetensorError as error:
            raise ValueError(f"{path} is no fingerprint: {error}") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path}: expected fingerprint format {FORMAT}; got {metadata.get('format')}. Upgrade the package"
            )
        names = tuple(metadata.get("names", "").split("\n"))
        if statistics.shape != (len(names), len(SIZES), 3) or "digest" not in metadata:
            raise ValueError(f"{path} is no fingerprint: {len(names)} names for statistics {tuple(statistics.shape)}")
        return cls(names, statistics, metadata["digest"])


@dataclass(frozen=True)
class Report:
    """The comparison of two fingerprints; differences are relative to the root mean square of the output."""

    levels: dict[str, float]
    """Largest difference per feature level, and of the logits."""
    first: str | None
    """First module, in the order of execution, that differs by more than the tolerance."""
    largest: float
    structure: tuple[str, ...] = ()
    """Differences in modules, keys, shapes, dtypes or files; empty if there are none."""
    tolerance: float = TOLERANCE
    notes: tuple[str, ...] = ()
    """Things that were not compared, and differences in files that are not part of the model."""

    @property
    def same_function(self) -> bool:
        """Whether all modules that both models have compute the same, within the tolerance."""
        return self.first is None

    @property
    def same(self) -> bool:
        """Whether both compute the same, and have the same modules, keys, shapes, dtypes and files."""
        return self.same_function and not self.structure

    def __str__(self) -> str:
        """One line for a log or a terminal."""
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        if self.same:
            return f"same function: largest relative difference {self.largest:.1e}{notes}"
        where = [f"first at {self.first} (relative difference up to {self.largest:.1e})"] if self.first else []
        return f"different: {'; '.join([*where, *self.structure])}{notes}"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        rows = [(name, f"{value:.1e}") for name, value in self.levels.items()]
        return html_table(("output", "relative difference"), rows, str(self))


def fingerprint(model: Model) -> Fingerprint:
    """Compute the fingerprint of a model; the model does not change.

    A copy of the model runs in eval mode and float32 on the CPU. It shares CPU tensors of the right dtype.

    Args:
        model: A full timm model, also with `num_classes=0`, or a `features_only` model of this package; also inside
            DataParallel, DDP or torch.compile.

    Raises:
        ValueError: The model is something else, such as a `features_only` model of timm's own classes.
    """
    full = unwrap(model)
    names, runs = [], []
    shared = {id(t): t for t in (*full.parameters(), *full.buffers()) if _as_needed(t)}
    twin = copy.deepcopy(full, shared).float().cpu().eval()
    for family in FAMILIES.values():
        if isinstance(twin, family.cls):
            family.canonical(twin)
    for height, width in SIZES:
        observed = _observe(twin, _image(twin.in_chans, height, width))
        names = list(observed)
        runs.append(torch.tensor(list(observed.values()), dtype=torch.float32))
    return Fingerprint(tuple(names), torch.stack(runs, dim=1), digest(full))


def _as_needed(tensor: Tensor) -> bool:
    """Whether a copy can share a tensor: the last bits of sums depend on alignment, and mapped files are unaligned."""
    return tensor.is_cpu and tensor.dtype in (torch.float32, torch.int64) and tensor.data_ptr() % 64 == 0


def unwrap(model: Model) -> Model:
    """The full timm model inside torch.compile, DataParallel, DDP and feature wrappers.

    Raises:
        ValueError: The model is not a timm model, or is a feature wrapper of timm, which does not keep the full model.
    """
    while (inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None)) is not None:
        model = inner
    if hasattr(model, "full_model"):
        return model.full_model()
    if not hasattr(model, "forward_features") or not hasattr(model, "pretrained_cfg"):
        raise ValueError(
            f"expected a timm model, or a features_only model of this package; got {type(model).__name__}. "
            "Create it with timm.create_model('ext_...', features_only=True)"
        )
    return model


def digest(model: Model) -> str:
    """sha256 over the sorted keys, shapes and dtypes of a state dict."""
    lines = sorted(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def compare(a: "Fingerprint | nn.Module", b: "Fingerprint | nn.Module", *, tolerance: float = TOLERANCE) -> Report:
    """Compare two models, or their fingerprints, module by module.

    Modules of only one model are listed in `Report.structure`. An edited model and its base differ in structure, and
    compute the same function if all modules that both have agree.
    """
    a, b = (item if isinstance(item, Fingerprint) else fingerprint(item) for item in (a, b))
    rows, others = ({name: row for name, row in zip(f.names, f.statistics, strict=True)} for f in (a, b))
    differences = {name: _difference(row, others[name]) for name, row in rows.items() if name in others}
    structure = []
    if lone := [*(rows.keys() - others.keys()), *(others.keys() - rows.keys())]:
        structure.append(f"{len(lone)} modules in only one of the models, such as {min(lone)}")
    if a.digest != b.digest:
        structure.append("keys, shapes or dtypes differ")
    return Report(
        levels={name: value for name, value in differences.items() if name.startswith("level ") or name == "logits"},
        first=next((name for name, value in differences.items() if not value <= tolerance), None),
        largest=max(differences.values(), default=0.0),
        structure=tuple(structure),
        tolerance=tolerance,
    )


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of (sizes, 3) statistics, relative to the root mean square; NaN counts as infinite."""
    scale = torch.maximum(a[:, 1], b[:, 1]).clamp_min(1e-30)
    return ((a - b).abs().amax(dim=1) / scale).nan_to_num(nan=float("inf"), posinf=float("inf")).max().item()


def _image(channels: int, height: int, width: int) -> Tensor:
    """(1, C, H, W) of uniform numbers with variance 1; Python's generator gives the same numbers in all versions."""
    uniform = random.Random(f"timm_backbones_ext {channels} {height} {width}").random
    values = [uniform() for _ in range(channels * height * width)]
    return (torch.tensor(values, dtype=torch.float64).view(1, channels, height, width) * 2 - 1).mul(3**0.5).float()


Observed = dict[str, tuple[float, float, float]]


def _observe(model: Model, image: Tensor) -> Observed:
    """Statistics by name, from one forward pass."""
    observed: Observed = {}
    levels: Observed = {}
    level_of = {info["module"]: f"level {i}" for i, info in enumerate(model.feature_info)}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _OBSERVED) or "Norm" in type(module).__name__:
            handles.append(module.register_forward_hook(partial(_record, observed, name)))
        if isinstance(module, _ACTIVATIONS):
            handles.append(module.register_forward_hook(partial(_record_ramp, observed, f"{name} on a ramp")))
        if name in level_of:
            handles.append(module.register_forward_hook(partial(_record, levels, level_of[name])))
    try:
        with torch.inference_mode():
            logits = model(image)
    finally:
        for handle in handles:
            handle.remove()
    return {**observed, **levels, **({"logits": _statistics(logits)} if model.num_classes else {})}


def _record(observed: Observed, name: str, _: nn.Module, __: tuple, output: Tensor) -> None:
    while name in observed:
        name += "'"  # a second call of the module in the same pass
    observed[name] = _statistics(output)


def _record_ramp(observed: Observed, name: str, module: nn.Module, _: tuple, output: Tensor) -> None:
    """Record the output of an activation on a negative ramp, where activations differ most relative to their value.

    GELU(-3) is -4.0e-3 and its tanh approximation -3.6e-3; on a model's own values they agree to 1e-4.
    """
    ramp = -2 + 1.5 * _direction(output.numel()).to(output.dtype).view(output.shape)
    observed[name] = _statistics(module.forward(ramp))


def _statistics(output: Tensor) -> tuple[float, float, float]:
    values = output.detach().double().flatten()
    scale = values.numel() ** 0.5
    projection = values @ _direction(values.numel()) / scale
    return values.mean().item(), (values.norm() / scale).item(), projection.item()


def _direction(count: int) -> Tensor:
    """(count,) of fixed irregular numbers in [-1, 1], the same on every machine."""
    return torch.cos(torch.arange(count, dtype=torch.float64) * 2.399963229728653)  # the golden angle, in radians
