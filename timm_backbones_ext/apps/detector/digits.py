"""Scenes of real handwritten digits, written as a folder in COCO's format: something to detect in a minute.

The digits are scikit-learn's (UCI ML hand-written digits, 8x8 pixels), enlarged and put on noise. Training and
validation scenes share no digit.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..digits import Digits, digits

__all__ = ["scenes", "write_digits"]

DIGITS_PER_SCENE = 1, 5
SIDES = 20, 44
"""Smallest and largest side of a digit in pixels."""
INK = 0.25
"""Least ink, of 1, that belongs to the box of a digit."""


def write_digits(root: str | Path, *, train: int = 1000, val: int = 200, side: int = 96, seed: int = 0) -> Path:
    """Write scenes of digits; the same arguments give the same files, and scenes that are there already are kept.

    Args:
        root: The folder; it gets `annotations/instances_train.json`, `train/` and the same for `val`.
        train: Scenes to train on.
        val: Scenes to validate on.
        side: Width and height of a scene in pixels.
        seed: Seed of all random choices.

    Returns:
        The folder.

    Raises:
        ImportError: scikit-learn is missing; the extra `detection` installs it.
        FileExistsError: The folder holds other annotations.
        ValueError: The scenes are too small for the digits.
    """
    root = Path(root)
    if side < SIDES[1]:
        raise ValueError(f"scenes need at least {SIDES[1]} pixels a side, the size of the largest digits; got {side}")
    for number, (split, count) in enumerate({"train": train, "val": val}.items()):
        about = {"description": "timm-ext digits", "count": count, "side": side, "seed": seed}
        file = root / "annotations" / f"instances_{split}.json"
        if file.exists():
            held = json.loads(file.read_text(encoding="utf-8")).get("info")
            if held == about:
                continue
            if held is None or held.get("description") != about["description"]:
                raise FileExistsError(f"{file} is not of digits; choose another folder")
        _write_split(root, split, digits()[number], np.random.default_rng((seed, number)), about)
    return root


def scenes(
    data: Digits, count: int, random: np.random.Generator, side: int = 96
) -> Iterator[tuple[np.ndarray, list[tuple[int, Any]]]]:
    """(side, side, 3) bytes of each scene, with label and box (x, y, width, height) of its digits; no boxes overlap."""
    for _ in range(count):
        yield _scene(data, side, random)


def _write_split(root: Path, split: str, data: Digits, random: np.random.Generator, about: dict[str, Any]) -> None:
    shutil.rmtree(root / split, ignore_errors=True)
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, (scene, found) in enumerate(scenes(data, about["count"], random, about["side"])):
        name = f"{number:05d}.png"
        Image.fromarray(scene).save(root / split / name)
        images.append({"id": number, "file_name": name, "width": about["side"], "height": about["side"]})
        for label, (x, y, width, height) in found:
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label, **box})
    categories = [{"id": digit, "name": str(digit)} for digit in range(10)]
    content = {"info": about, "images": images, "annotations": annotations, "categories": categories}
    draft = root / "annotations" / f".{split}.draft"
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(root / "annotations" / f"instances_{split}.json")  # written last: it marks that all images exist


def _scene(data: Digits, side: int, random: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, Any]]]:
    """(side, side, 3) bytes, and label and box (x, y, width, height) of each digit; boxes do not overlap."""
    paper = random.uniform(0.0, 0.3) + random.normal(0.0, 0.08, (side, side))
    ink = np.zeros((side, side))
    taken: list[tuple[int, tuple[int, int, int, int]]] = []
    for _ in range(random.integers(DIGITS_PER_SCENE[0], DIGITS_PER_SCENE[1], endpoint=True)):
        pick, size = random.integers(len(data.images)), int(random.integers(*SIDES, endpoint=True))
        large = Image.fromarray((data.images[pick] * 255).astype(np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        digit = np.asarray(large) / 255
        rows, columns = ((digit > INK).any(axis=axis).nonzero()[0] for axis in (1, 0))
        top, left = (int(random.integers(side - size, endpoint=True)) for _ in range(2))
        box = (left + int(columns[0]), top + int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        if any(_overlap(box, other) for _, other in taken):
            continue
        taken.append((int(data.labels[pick]), box))
        area = ink[top : top + size, left : left + size]
        np.maximum(area, digit, out=area)
    scene = np.clip(paper * (1 - ink) + ink * random.uniform(0.6, 1.0), 0, 1)
    return np.repeat((scene[..., None] * 255).astype(np.uint8), 3, axis=2), taken


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    (x, y, width, height), (u, v, across, down) = one, other
    return x < u + across and u < x + width and y < v + down and v < y + height
