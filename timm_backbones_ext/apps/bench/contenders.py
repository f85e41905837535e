"""What is compared: a model as timm runs it, timm's own graph in other runtimes, and what this package makes of it.

A contender whose outputs are wrong is left out. Peers get the model's own graph; "ours" gets the folded one, which
`deploy_model` exports too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision.models
from torch import Tensor, nn

from ..._types import Model
from ...deploy.checking import Reference
from ...deploy.exported import Plain, plain_graph
from ...deploy.facts import facts_of
from ...deploy.formats import Example
from ...deploy.fusion.graphs import listed
from ...deploy.making import TOLERANCE, Source
from ...deploy.runtimes import Options, Run, find
from ...errors import BackboneError
from ...weights.checkpoints import convert
from . import mnn

__all__ = ["AGAINST", "Contender", "Field"]

EXPORTED = ("onnxruntime", "openvino", "ncnn")
AGAINST = ("timm", "torchvision", *EXPORTED, "mnn", "compile")
"""What a model can be compared with."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a model."""

    name: str
    """"onnxruntime", or "ours: onnxruntime"."""
    run: Run
    error: float
    """Largest difference from the model in float64, relative to the largest value of the map."""
    dtype: str = "float32"

    @property
    def ours(self) -> bool:
        """Whether this package made it."""
        return self.name.startswith("ours")


class Field:
    """All contenders of one model; each is made, and compared with the model, once."""

    def __init__(self, model: Model, images: Sequence[Tensor], folder: Path, threads: int) -> None:
        """Prepare a model.

        Args:
            model: A timm model or a `features_only` model, in eval mode.
            images: (N, C, H, W), one of each size that will be measured; the outputs are compared on them.
            folder: For exported files; it is made.
            threads: Threads of every contender.
        """
        self.model, self.images, self.folder, self.threads = model, images, folder, threads
        self.folded = plain_graph(model)
        order = self.folded.outputs["order"]
        self.own = replace(self.folded, graph=_Own(model, [order.index(i) for i in range(max(order) + 1)]).eval())
        self.reference = Reference(model, list(images), order)

    def contenders(self, against: Sequence[str], dtypes: Sequence[str] = ("float32",)) -> Iterator[Contender | str]:
        """Each contender, or a word on why it is left out.

        Args:
            against: Names of `AGAINST`. The runtimes among them also run our graph.
            dtypes: Of our own contenders; the peers compute in float32.
        """
        makers: dict[str, Callable[[], Contender]] = {name: lambda name=name: self._peer(name) for name in against}
        for dtype in dtypes:
            for name in ("eager", *(name for name in (*EXPORTED, "compile") if name in against)):
                if dtype in find(name).dtypes:
                    makers[_ours(name, dtype)] = lambda name=name, dtype=dtype: self._ours(name, dtype)
        for name, make in makers.items():
            try:
                yield make()
            except Exception as error:  # a runtime that fails is left out, whatever it raises
                yield f"{name}: left out, {' '.join(str(error).split())[:200]}"

    def _peer(self, name: str) -> Contender:
        if name in EXPORTED:
            found = self._source(self.own, "own").candidate(find(name), self._options("float32"))
            return Contender(name, found.run, found.error)
        run = {"timm": self._timm, "torchvision": self._torchvision, "compile": self._compiled, "mnn": self._mnn}[
            name
        ]()
        return self._checked(Contender(name, run, self.reference.error(run)))

    def _ours(self, name: str, dtype: str) -> Contender:
        source = self._source(self.folded, f"ours-{dtype}")
        if dtype != "float32":
            source = replace(source, limit=TOLERANCE)
        found = source.candidate(find(name), self._options(dtype))
        return Contender(_ours(name, dtype), found.run, found.error, dtype)

    def _checked(self, contender: Contender) -> Contender:
        """The contender, or BackboneError if it computes something else."""
        if contender.error > self.folded.limit:
            raise BackboneError(
                f"changes the maps by {contender.error:.1e}, relative; allowed: {self.folded.limit:.1e}"
            )
        return contender

    def _source(self, plain: Plain, place: str) -> Source:
        folder = self.folder / place
        folder.mkdir(parents=True, exist_ok=True)
        example = Example(self.images[0], dynamic=True)
        return Source(self.model, plain, example, self.reference, facts_of(self.model), folder, plain.limit)

    def _options(self, dtype: str) -> Options:
        return Options(dtype, True, self.threads)

    def _timm(self) -> Run:
        return _eager(self.own.graph, self.threads)

    def _compiled(self) -> Run:
        return _eager(torch.compile(self.own.graph, dynamic=False), self.threads)

    def _torchvision(self) -> Run:
        name = self.model.pretrained_cfg["architecture"].removeprefix("ext_")
        if name not in torchvision.models.list_models():
            raise LookupError(f"torchvision has no {name}")
        if self.folded.outputs["kind"] != "tensor":
            raise LookupError("torchvision's models give no feature maps; compare classifiers")
        net = torchvision.models.get_model(name, num_classes=self.model.num_classes).eval()
        net.load_state_dict(convert(self.model.state_dict(), source="timm", target="torchvision", arch=name))
        return _eager(_Own(net, [0]), self.threads)

    def _mnn(self) -> Run:
        folder = self.folder / "own"
        if not (onnx := folder / "onnxruntime" / "model.onnx").is_file():
            raise LookupError("mnn converts the file of onnxruntime; name both")
        return mnn.load(onnx, self.folded.names, self.threads)


class _Own(nn.Module):
    """A model as it is, its maps once each in a tuple."""

    def __init__(self, model: nn.Module, first: list[int]) -> None:
        super().__init__()
        self.model, self.first = model, first

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> the maps."""
        maps = listed(self.model(x))
        return tuple(maps[index] for index in self.first)


def _eager(module: Callable[[Tensor], tuple[Tensor, ...]], threads: int) -> Run:
    """A module of PyTorch as it is."""

    @torch.inference_mode()
    def run(x: np.ndarray) -> list[np.ndarray]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return [each.numpy() for each in module(torch.from_numpy(x))]
        finally:
            torch.set_num_threads(before)

    return run


def _ours(name: str, dtype: str) -> str:
    return f"ours: {name}" + ("" if dtype == "float32" else f" in {dtype}")
