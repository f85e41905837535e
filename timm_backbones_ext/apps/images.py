"""Small images with labels for the studies: Fashion-MNIST, any folder of images, and scenes of digits."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .detector.digits import scenes
from .digits import digits

__all__ = ["FASHION", "Images", "digit_scenes", "image_folder", "read_images"]

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""
PACKAGE = "dataset-fashion-mnist"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Images:
    """Images (N, 3, H, W) in bytes for training and testing.

    Labels are numbers of classes (N,), or (N, classes) of 0 and 1 where an image has any number of them.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int
    rate: float = 1.0
    """Factor on the learning rate of the study of edits."""


def read_images(folder: str | Path | None = None, *, train: int, test: int, side: int) -> Images:
    """Fashion-MNIST, from Debian's package or a folder with its files, or the images of another folder.

    Args:
        folder: With Fashion-MNIST's four files, or with a folder per class; Debian's by default.
        train: Images to train on: the first ones.
        test: Images to test on.
        side: Pixels that images are scaled to.

    Raises:
        FileNotFoundError: The folder has neither; the message names the package.
        ValueError: The folder has fewer images than wanted.
    """
    folder = Path(folder or FASHION)
    if any(folder.glob("train-images-idx3-ubyte*")):
        return _fashion(folder, train, test, side)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"no images in {folder}; run: apt-get install {PACKAGE}, or name a folder of images")
    return image_folder(folder, train=train, test=test, side=side)


def _fashion(folder: Path, train: int, test: int, side: int) -> Images:
    parts = []
    for part, count in (("train", train), ("t10k", test)):
        pixels = _idx(folder / f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28)
        labels = torch.from_numpy(_idx(folder / f"{part}-labels-idx1-ubyte", 8)).long()
        _require_enough(len(labels), count, folder)
        parts += [_scaled(torch.from_numpy(pixels[:count])[:, None].expand(-1, 3, -1, -1), side), labels[:count]]
    return Images("Fashion-MNIST", *parts, classes=10)


def _idx(path: Path, header: int) -> np.ndarray:
    """The bytes of a file in MNIST's format, behind its header."""
    packed = path.with_name(path.name + ".gz")
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    return np.frombuffer(data, np.uint8, offset=header).copy()


def _scaled(pixels: Tensor, side: int) -> Tensor:
    scaled = nn.functional.interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).byte()


def _require_enough(there: int, wanted: int, folder: Path) -> None:
    if there < wanted:
        raise ValueError(f"expected {wanted} images in {folder}; there are {there}")


def image_folder(folder: Path, *, train: int, test: int, side: int) -> Images:
    """The images of a folder that has a folder per class; which ones are for testing is decided by chance, seed 0.

    Raises:
        ValueError: There are fewer than two classes, or fewer images than wanted.
    """
    names = sorted(item.name for item in folder.iterdir() if item.is_dir())
    if len(names) < 2:
        raise ValueError(f"expected a folder per class in {folder}; got {len(names)}")
    files = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    _require_enough(len(files), train + test, folder)
    order = np.random.default_rng(0).permutation(len(files))
    chosen = [files[i] for i in order[: train + test]]
    pixels = torch.stack([_read(file, side) for file, _ in chosen])
    labels = torch.tensor([label for _, label in chosen])
    return Images(folder.name, pixels[:train], labels[:train], pixels[train:], labels[train:], classes=len(names))


def _read(file: Path, side: int) -> Tensor:
    with Image.open(file) as picture:
        small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)


def digit_scenes(*, train: int, test: int, side: int) -> Images:
    """The detector's scenes of digits; the labels say which of the ten digits a scene has.

    Raises:
        ImportError: scikit-learn is missing.
    """
    parts = []
    for number, (data, count) in enumerate(zip(digits(), (train, test), strict=True)):
        found = list(scenes(data, count, np.random.default_rng((0, number))))
        pixels = torch.from_numpy(np.stack([scene for scene, _ in found])).permute(0, 3, 1, 2)
        labels = torch.zeros(count, 10)
        for row, (_, boxes) in enumerate(found):
            labels[row, [label for label, _ in boxes]] = 1
        parts += [_scaled(pixels, side), labels]
    return Images("scenes of digits", *parts, classes=10, rate=3.0)
