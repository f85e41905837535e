"""`deploy_model`: the runtime that is fastest on this machine among those that compute what the model computes."""

import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._types import Model
from ..console import progress, table
from ..errors import BackboneError
from . import formats
from .checking import Reference
from .exported import Plain, plain_graph
from .facts import facts_of
from .loading import Deployed
from .machine import cores, machine
from .measuring import Timing, interleaved, rounds_for
from .photos import prepared
from .quantizing import Calibration
from .runtimes import Options, Run, Runtime, find, installed
from .saved import save_model

__all__ = ["STEM", "as_example", "deploy_model", "random_image"]

DTYPES = ("float32", "bfloat16", "int8")
SECONDS = 4.0
"""Time that `auto` spends on measuring."""
STEM = "model"
TOLERANCE = 0.1
"""Of bfloat16, which has 8 bits: a net of fifty layers differs by about a hundredth."""
AGREEMENT = 0.95
"""Of int8 with float32, on images that the quantiser has not seen."""
MARGIN = 2
"""A way of computing that has a more exact one below it stays so far below the limit, for the sake of other images."""


@dataclass(frozen=True)
class Candidate:
    """A runtime with its file, checked."""

    runtime: Runtime
    run: Run
    options: Options
    error: float
    agreement: float | None = None
    """Of int8."""


def deploy_model(
    model: Model,
    example: Any,
    runtime: str | Sequence[str] = "auto",
    *,
    dtype: str = "float32",
    dynamic: bool = True,
    threads: int | None = None,
    tolerance: float = TOLERANCE,
    calibration: Any = None,
    agreement: float = AGREEMENT,
    seconds: float = SECONDS,
    quiet: bool = False,
) -> Deployed:
    """A callable that computes what a model computes, by the runtime that is fastest for an example.

    Every runtime gets the folded model, is compared with the unedited model in float64, and is left out if a map
    differs by more than 1e-5 of its largest value (or five times the rounding of the model itself). Those that remain
    are measured in turn on the example; the table is printed.

    Args:
        model: A timm model, a `features_only` model or a `Pyramid`, in eval mode on the CPU. It is not changed.
        example: Images (N, C, H, W) in float32, a tensor or an array; or a photo, as a file or an image of pillow.
        runtime: "auto" for all that are installed but "compile", which compiles for minutes; one name, or several:
            "eager", "compile", "onnxruntime", "openvino", "ncnn".
        dtype: "float32"; "bfloat16", which changes the function by about a hundredth; "int8", by the quantiser of ONNX
            Runtime or OpenVINO (NNCF).
        dynamic: Whether batches and sides may differ from the example's.
        threads: Threads of the runtime; all cores by default.
        tolerance: With bfloat16, the largest difference of a map that is accepted, relative to its largest value.
        calibration: For int8: photos, as files or images of pillow, of each of which crops are taken; or images
            (N, C, H, W) in float32. Every second one calibrates, the others are compared.
        agreement: With int8, the least agreement with the model that is accepted: of a classifier the share of images
            whose likeliest class stays, of maps their mean cosine similarity.
        seconds: Time to spend on measuring.
        quiet: Print no progress and no table.

    Returns:
        The deployed model. `facts` has the times and the machine; `save` writes a folder for `deploy.load`.

    Raises:
        ValueError: The example does not fit the model, the model cannot be fused, or no runtime knows the name, the
            dtype.
        ImportError: The runtime is not installed; the message names the extra.
        BackboneError: No runtime computes what the model computes; the message says why for each.
    """
    runtimes = _chosen(runtime, dtype)
    plain, facts = plain_graph(model), facts_of(model)
    image = as_example(example, facts)
    limit = {"float32": plain.limit, "bfloat16": tolerance, "int8": math.inf}[dtype]
    given = Calibration.of(calibration, model, plain, facts, agreement) if dtype == "int8" else None
    options = Options(dtype, dynamic, threads or cores())
    reference = Reference.around(model, image, plain.outputs["order"], dynamic=dynamic)
    with _scratch() as (folder, keep):
        source = Source(model, plain, formats.Example(image, dynamic), reference, facts, folder, limit, given)
        candidates, words = source.candidates(runtimes, options)
        if not candidates:
            raise BackboneError(f"no runtime computes what the model computes: {_listed(words)}. Nothing was deployed")
        timings = _measured(candidates, image.numpy(), seconds, quiet=quiet) if len(candidates) > 1 else {}
        best = min(candidates, key=lambda each: timings[each.runtime.name].median if timings else 0)
        if len(runtimes) > 1 and not quiet:
            _print(candidates, timings, words)
        times = {name: timing.as_json() for name, timing in timings.items()}
        facts = {**source.facts_with(best), "measured": times, "left_out": words}
        return keep(Deployed(facts, best.run, folder / best.runtime.name))


@contextmanager
def _scratch() -> Generator[tuple[Path, Callable[[Deployed], Deployed]]]:
    """A folder for files, removed at the end; and a function that keeps it as long as a deployed model lives."""
    folder, kept = Path(tempfile.mkdtemp(prefix="deployed-")), []

    def keep(deployed: Deployed) -> Deployed:
        kept.append(weakref.finalize(deployed, shutil.rmtree, folder, ignore_errors=True))
        return deployed

    try:
        yield folder, keep
    finally:
        if not kept:
            shutil.rmtree(folder)


def _chosen(runtime: str | Sequence[str], dtype: str) -> list[Runtime]:
    """The runtimes asked for that have the dtype.

    Raises:
        ValueError: Unknown names, or none has the dtype.
        ImportError: One that is named is not installed.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; there is: {', '.join(DTYPES)}")
    if runtime == "auto":
        return [each for each in installed() if each.automatic and dtype in each.dtypes]
    named = [find(name) for name in ([runtime] if isinstance(runtime, str) else runtime)]
    for each in named:
        if dtype not in each.dtypes:
            raise ValueError(f"runtime {each.name!r} has no {dtype}; it has: {', '.join(each.dtypes)}")
        each.require(making=True)
    return named


def random_image(model: Model) -> Tensor:
    """(1, C, H, W) of normal numbers, in the size that a model was trained on."""
    return torch.randn(1, *facts_of(model)["image"]["size"], generator=torch.Generator().manual_seed(0))


def as_example(example: Any, facts: dict[str, Any]) -> Tensor:
    """The example as a tensor.

    Raises:
        ValueError: It has other channels, another dtype or another shape than the model takes.
    """
    if not isinstance(example, Tensor | np.ndarray):
        example = prepared(example, facts["image"])
    tensor, channels = torch.as_tensor(example).detach(), facts["image"]["size"][0]
    if tensor.dtype is not torch.float32:
        raise ValueError(f"expected an example in float32; got {tensor.dtype}")
    if tensor.ndim != 4 or tensor.shape[1] != channels or 0 in tensor.shape:
        raise ValueError(f"expected an example of the shape (N, {channels}, H, W); got {tuple(tensor.shape)}")
    return tensor.cpu().contiguous()


@dataclass(frozen=True)
class Source:
    """What runtimes are made of."""

    model: Model
    plain: Plain
    example: formats.Example
    reference: Reference
    facts: dict[str, Any]
    folder: Path
    limit: float
    """Relative error that is accepted."""
    calibration: Calibration | None = None
    """For int8."""

    def candidates(self, runtimes: Sequence[Runtime], options: Options) -> tuple[list[Candidate], dict[str, str]]:
        """The runtimes that compute what the model computes; why the others do not."""
        found, words = [], {}
        for runtime in runtimes:
            try:
                found.append(self.candidate(runtime, options))
            except Exception as error:  # a runtime that fails is left out, whatever it raises
                if len(runtimes) == 1:
                    raise
                words[runtime.name] = " ".join(str(error).split())[:200]
        return found, words

    def candidate(self, runtime: Runtime, options: Options) -> Candidate:
        """A runtime by the fastest of its ways that is exact enough.

        Raises:
            BackboneError: Its exporter lacks an operator, or none of its ways is exact enough.
        """
        place = self.folder / runtime.name
        place.mkdir()
        if runtime.format:
            formats.write(self.plain, self.example, place, STEM, runtime.format, self.facts)
        if self.calibration is not None:
            return self._quantized(runtime, options, self.calibration, place)
        limit, errors = self.limit, []
        for way in range(len(runtime.ways)):
            chosen = Options(options.dtype, options.dynamic, options.threads, way)
            run = runtime.load(place, chosen) if runtime.format else runtime.of(self.model, chosen)
            errors.append(self.reference.error(run))
            last = way == len(runtime.ways) - 1
            if errors[-1] <= (limit if last else limit / MARGIN):
                return Candidate(runtime, run, chosen, errors[-1])
        raise BackboneError(f"{runtime.name} changes the maps by {min(errors):.1e}, relative; allowed is {limit:.1e}")

    def _quantized(self, runtime: Runtime, options: Options, given: Calibration, place: Path) -> Candidate:
        """A runtime in int8.

        Raises:
            BackboneError: It agrees with the model on fewer images than was asked for.
        """
        runtime.quantize(place, given.used)
        run = runtime.load(place, options)
        found, error = given.compare(run)
        if found < given.threshold:
            raise BackboneError(
                f"{runtime.name} in int8 agrees with the model by {found:.3f} ({given.measure}, {len(given.held_out)} "
                f"images); asked for was {given.threshold:.3f}. Give more photos like those that the model will see, "
                "accept a lower agreement, or deploy in bfloat16 or float32"
            )
        return Candidate(runtime, run, options, error, found)

    def facts_with(self, best: Candidate) -> dict[str, Any]:
        """The facts of the model in its runtime."""
        return {
            **self.facts,
            "runtime": best.runtime.name,
            "dtype": best.options.dtype,
            "way": best.options.way,
            "exactness": "same function" if best.options.dtype == "float32" else "approximate",
            "error": float(f"{best.error:.2e}"),
            "limit": None if math.isinf(self.limit) else float(f"{self.limit:.2e}"),
            **self._agreement(best),
            "dynamic": best.options.dynamic,
            "threads": best.options.threads,
            "example": list(self.example.image.shape),
            "outputs": {"names": self.plain.names, **self.plain.outputs},
            "unsaved": "" if best.runtime.format else save_model(self.model, self.folder / best.runtime.name),
            "machine": machine(),
        }

    def _agreement(self, best: Candidate) -> dict[str, Any]:
        """What is said of int8."""
        if self.calibration is None or best.agreement is None:
            return {}
        measure, images = self.calibration.measure, len(self.calibration.held_out)
        return {"agreement": round(best.agreement, 4), "agreement_is": measure, "agreement_on": images}


def _measured(candidates: list[Candidate], image: np.ndarray, seconds: float, *, quiet: bool) -> dict[str, Timing]:
    """Times of the candidates on the example, in turn."""
    calls = {each.runtime.name: (lambda run=each.run: run(image)) for each in candidates}
    rounds = rounds_for(calls, seconds)
    if quiet:
        return interleaved(calls, rounds)
    with progress(rounds, "round", every=max(1, rounds // 3)) as step:
        return interleaved(calls, rounds, step)


def _print(candidates: list[Candidate], timings: dict[str, Timing], words: dict[str, str]) -> None:
    """The table of what was tried."""
    rows = []
    for each in sorted(candidates, key=lambda each: timings[each.runtime.name].median if timings else 0):
        timing = timings.get(each.runtime.name)
        shown = (
            [f"{1e3 * timing.median:.2f}", f"{1e3 * timing.low:.2f}-{1e3 * timing.high:.2f}"] if timing else ["", ""]
        )
        rows.append([each.runtime.name, *shown, f"{each.error:.0e}", _note(each)])
    rows += [[name, "", "", "", f"left out: {why}"] for name, why in words.items()]
    table(["runtime", "ms", "quartiles", "error", "note"], rows)


def _note(candidate: Candidate) -> str:
    return "" if candidate.agreement is None else f"agreement {candidate.agreement:.3f}"


def _listed(words: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in words.items()) or "none is installed"
