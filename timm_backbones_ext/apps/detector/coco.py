"""A folder in COCO's format (https://cocodataset.org/#format-data) as images and boxes for torchvision's detectors."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

__all__ = ["CocoFolder", "Sample", "collate"]

ANNOTATIONS = ("annotations/instances_{}*.json", "annotations/{}*.json", "{}*/_annotations.coco.json", "{}.json")


class Sample(NamedTuple):
    """An image with its boxes."""

    image: Tensor
    """(3, H, W), from 0 to 1."""
    target: dict[str, Tensor]
    """boxes: (n, 4), corners in pixels; labels: (n,), from 0; iscrowd, area: (n,); image_id: ()."""
    unreadable: tuple[str, ...]
    """Files that could not be read, and that this image replaces."""


class Record(NamedTuple):
    """The annotations of one image."""

    image_id: int
    file: str
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    iscrowd: Tensor
    area: Tensor


class CocoFolder(Dataset[Sample]):
    """One split of a folder in COCO's format.

    The annotations are `annotations/instances_{split}*.json`, `{split}/_annotations.coco.json` or `{split}.json`; the
    images are in a folder named after the split, in `images`, or beside the annotations. Category ids may have holes.
    Boxes are cut at the border of their image, and dropped if nothing is left; `notes` counts both. An
    image that cannot be read is replaced by the next one, and named in the sample.

    Args:
        root: The folder.
        split: "train" or "val", as the names of files begin.
        flip: Probability of a horizontal flip.
        crowds: Keep boxes around crowds, which evaluation ignores and training must not see.
        classes: Names that the categories must have, in the order of the labels; those of the file by default.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        notes: Sentences on boxes that were changed and images without boxes.

    Raises:
        FileNotFoundError: There are no annotations, or no images where they should be.
        ValueError: The annotations are not in COCO's format; the message names the entry.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        flip: float = 0.0,
        crowds: bool = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        path = _annotations(Path(root), split)
        content = _read(path)
        names = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        self.classes = tuple(names.values() if classes is None else classes)
        if strange := set(names.values()) - set(self.classes):
            raise ValueError(f"{path}: categories {sorted(strange)} are not among {list(self.classes)}")
        self.labels = {key: self.classes.index(name) for key, name in names.items()}
        self.records, cut, dropped = _records(content, path, self.labels, crowds)
        self.folder = _images(Path(root), path, split, [record.file for record in self.records])
        self.flip = v2.RandomHorizontalFlip(flip)
        counts = {
            "boxes reached beyond their image and were cut": cut,
            "boxes had nothing inside their image and were left out": dropped,
            "images have no boxes": sum(not len(record.boxes) for record in self.records),
        }
        self.notes = tuple(f"{split}: {count} {words}" for words, count in counts.items() if count)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        unreadable = []
        for step in range(len(self)):
            record = self.records[(index + step) % len(self)]
            try:
                image = self._open(record)
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises each of these for damaged files
                unreadable.append(f"{record.file} ({error})")
                continue
            size = (record.height, record.width)
            boxes = tv_tensors.BoundingBoxes(record.boxes, format="XYXY", canvas_size=size)  # ty: ignore[no-matching-overload]
            image, boxes = self.flip(tv_tensors.Image(v2.functional.pil_to_tensor(image)), boxes)
            target = {"boxes": boxes.as_subclass(Tensor), "labels": record.labels, "iscrowd": record.iscrowd}
            target |= {"area": record.area, "image_id": torch.tensor(record.image_id)}
            return Sample(image.as_subclass(Tensor) / 255, target, tuple(unreadable))
        raise OSError(f"none of the {len(self)} images in {self.folder} can be read; the first: {unreadable[0]}")

    def _open(self, record: Record) -> Image.Image:
        with Image.open(self.folder / record.file) as file:
            image = file.convert("RGB")
        if image.size != (record.width, record.height):
            raise OSError(f"is {image.width}x{image.height}, the annotations say {record.width}x{record.height}")
        return image


def collate(samples: Sequence[Sample]) -> tuple[list[Tensor], list[dict[str, Tensor]], list[str]]:
    """Images, targets, and the files that could not be read."""
    return (
        [sample.image for sample in samples],
        [sample.target for sample in samples],
        [file for sample in samples for file in sample.unreadable],
    )


def _annotations(root: Path, split: str) -> Path:
    patterns = [pattern.format(split) for pattern in ANNOTATIONS]
    for pattern in patterns:
        found = sorted(root.glob(pattern))
        if len(found) > 1:
            raise ValueError(f"{root} has {len(found)} files {pattern}; expected one: {', '.join(map(str, found))}")
        if found:
            return found[0]
    there = sorted(str(path.relative_to(root)) for path in root.rglob("*.json"))[:5] if root.is_dir() else []
    raise FileNotFoundError(
        f"{root} has no annotations for {split!r}; expected {' or '.join(patterns)}; "
        f"it has {', '.join(there) or 'no .json files at all'}"
    )


def _read(path: Path) -> dict[str, Any]:
    """The content of an annotation file, checked: its lists have the entries that the format demands."""
    needed = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    for part, keys in needed.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"{path}: expected an object with the lists {', '.join(needed)}; {part!r} is missing")
        for entry in content[part]:
            if not isinstance(entry, dict) or (missing := [key for key in keys if key not in entry]):
                lacks = ", ".join(missing) if isinstance(entry, dict) else "everything"
                raise ValueError(f"{path}: an entry of {part!r} lacks {lacks}: {str(entry)[:80]}")
        ids = [entry["id"] for entry in content[part]]
        if len(set(ids)) < len(ids):
            raise ValueError(f"{path}: {len(ids) - len(set(ids))} entries of {part!r} have the id of another entry")
    if not content["images"] or not content["categories"]:
        raise ValueError(f"{path} has no images or no categories")
    return content


def _records(
    content: Mapping[str, Any], path: Path, labels: Mapping[int, int], crowds: bool
) -> tuple[list[Record], int, int]:
    """Records of all images, and how many boxes were cut and dropped."""
    sizes = {item["id"]: (item["width"], item["height"]) for item in content["images"]}
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    cut = dropped = 0
    for item in content["annotations"]:
        if item["image_id"] not in sizes or item["category_id"] not in labels:
            raise ValueError(f"{path}: annotation {item['id']} is of an image or a category that is not in the file")
        box = _corners(item, path)
        inside = _inside(box, *sizes[item["image_id"]])
        cut += inside != box
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            cut, dropped = cut - (inside != box), dropped + 1
        elif crowds or not item.get("iscrowd"):
            area = item.get("area") or (inside[2] - inside[0]) * (inside[3] - inside[1])
            row = (inside, labels[item["category_id"]], int(item.get("iscrowd") or 0), float(area))
            found[item["image_id"]].append(row)
    records = [_record(item, found.get(item["id"], ())) for item in content["images"]]
    return records, cut, dropped


def _corners(item: Mapping[str, Any], path: Path) -> tuple[float, ...]:
    """COCO's (x, y, width, height) as two corners."""
    try:
        x, y, width, height = map(float, item["bbox"])
        if not all(map(math.isfinite, (x, y, width, height))):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: annotation {item['id']}: expected bbox as [x, y, width, height] in pixels; got {item['bbox']}"
        ) from None
    return x, y, x + width, y + height


def _inside(box: tuple[float, ...], width: int, height: int) -> tuple[float, ...]:
    return tuple(min(max(side, 0.0), float(limit)) for side, limit in zip(box, (width, height) * 2, strict=True))


def _record(image: Mapping[str, Any], rows: Sequence[tuple[Any, ...]]) -> Record:
    boxes, labels, iscrowd, area = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Record(
        image["id"],
        image["file_name"],
        image["width"],
        image["height"],
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(iscrowd, dtype=torch.int64),
        torch.tensor(area, dtype=torch.float32),
    )


def _images(root: Path, annotations: Path, split: str, files: Sequence[str]) -> Path:
    """The folder of the images: the candidate that holds the most of the first hundred files."""
    named = annotations.stem.rpartition("_")[2]  # instances_train2017.json: train2017
    folders = [root / named, root / "images" / named, root / split, root / "images" / split]
    folders += [root / "images", annotations.parent, root]
    held = {folder: sum((folder / file).is_file() for file in files[:100]) for folder in folders}
    best = max(held, key=lambda folder: held[folder])
    if not held[best]:
        looked = ", ".join(map(str, held))
        raise FileNotFoundError(f"no image of {annotations} is there: looked for {files[0]!r} in {looked}")
    return best
