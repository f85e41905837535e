"""Folders in COCO's format, right and wrong, and scenes of digits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from timm_backbones_ext.apps.detector.coco import CocoFolder, collate
from timm_backbones_ext.apps.detector.digits import write_digits

WIDTH, HEIGHT = 40, 30


def content() -> dict[str, Any]:
    """Three images, the last without boxes; category ids with holes."""
    boxes = [(1, 1, 7, [2, 3, 10, 12]), (2, 1, 90, [5, 5, 8, 8]), (3, 2, 7, [0, 0, 40, 30])]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box} for i, image, category, box in boxes
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def write(
        change: Callable[[dict[str, Any]], Any] = lambda content: None, splits: tuple[str, ...] = ("train",)
    ) -> Path:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for split in splits:
            described = content()
            change(described)
            (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(described))
            (tmp_path / f"{split}2017").mkdir(exist_ok=True)
            for number in (1, 2, 3):
                image = Image.new("RGB", (WIDTH, HEIGHT), (80 * number, 0, 0))
                image.save(tmp_path / f"{split}2017" / f"{number}.png")
        return tmp_path

    return write


def test_boxes_are_corners_and_labels_count_without_holes(folder: Callable[..., Path]) -> None:
    data = CocoFolder(folder(), "train")
    assert data.classes == ("train", "toothbrush")
    sample = data[0]
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.image[0].unique().tolist() == pytest.approx([80 / 255])
    assert sample.target["boxes"].tolist() == [[2, 3, 12, 15], [5, 5, 13, 13]]
    assert sample.target["labels"].tolist() == [0, 1]
    assert sample.target["area"].tolist() == [120, 64]
    assert data[2].target["boxes"].shape == (0, 4)
    assert data.notes == ("train: 1 images have no boxes",)


def test_a_flip_moves_boxes_with_the_image(folder: Callable[..., Path]) -> None:
    root = folder()
    picture = Image.open(root / "train2017" / "1.png")
    picture.putpixel((2, 3), (0, 255, 0))
    picture.save(root / "train2017" / "1.png")
    sample = CocoFolder(root, "train", flip=1.0)[0]
    assert sample.target["boxes"][0].tolist() == [WIDTH - 12, 3, WIDTH - 2, 15]
    assert sample.image[1, 3, WIDTH - 3] == 1


def test_boxes_beyond_the_image_are_cut_and_those_outside_or_empty_left_out(folder: Callable[..., Path]) -> None:
    def change(content: dict[str, Any]) -> None:
        for item, box in zip(content["annotations"], ([-5, -5, 10, 10], [50, 5, 8, 8], [3, 3, 0, 8]), strict=True):
            item["bbox"] = box

    data = CocoFolder(folder(change), "train")
    assert data[0].target["boxes"].tolist() == [[0, 0, 5, 5]]
    assert [note.removeprefix("train: ") for note in data.notes] == [
        "1 boxes reached beyond their image and were cut",
        "2 boxes had nothing inside their image and were left out",
        "2 images have no boxes",
    ]


def test_crowds_are_for_evaluation_only(folder: Callable[..., Path]) -> None:
    root = folder(lambda content: content["annotations"][0].update(iscrowd=1))
    assert CocoFolder(root, "train")[0].target["labels"].tolist() == [1]
    assert CocoFolder(root, "train", crowds=True)[0].target["iscrowd"].tolist() == [1, 0]


@pytest.mark.parametrize("layout", ["annotations/train.json", "train/_annotations.coco.json", "train.json"])
def test_other_layouts_are_found(folder: Callable[..., Path], layout: str) -> None:
    root = folder()
    (root / "train2017").rename(root / "train")
    (root / layout).parent.mkdir(exist_ok=True)
    (root / "annotations" / "instances_train2017.json").rename(root / layout)
    assert len(CocoFolder(root, "train")[1].target["boxes"]) == 1


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


def of_another_size(file: Path) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(file)


@pytest.mark.parametrize("harm", [damaged, of_another_size, Path.unlink, lambda file: file.write_text("no image")])
def test_an_image_that_cannot_be_read_is_named_and_replaced(
    folder: Callable[..., Path], harm: Callable[[Path], Any]
) -> None:
    root = folder()
    harm(root / "train2017" / "1.png")
    data = CocoFolder(root, "train")
    images, targets, unreadable = collate([data[0], data[1]])
    assert [target["image_id"].item() for target in targets] == [2, 2]
    torch.testing.assert_close(images[0], images[1])
    assert len(unreadable) == 1
    assert unreadable[0].startswith("1.png (")
    for number in (2, 3):
        harm(root / "train2017" / f"{number}.png")
    with pytest.raises(OSError, match=r"none of the 3 images in .*train2017 can be read"):
        data[0]


WRONG = {
    "no annotations": (lambda c: c.pop("annotations"), "'annotations' is missing"),
    "a list": (lambda c: c.update(images={}), "'images' is missing"),
    "no width": (lambda c: c["images"][0].pop("width"), "an entry of 'images' lacks width"),
    "twice": (lambda c: c["images"][0].update(id=2), "1 entries of 'images' have the id of another entry"),
    "stranger": (lambda c: c["annotations"][1].update(category_id=8), "annotation 2 is of an image or a category"),
    "three numbers": (lambda c: c["annotations"][2].update(bbox=[1, 2, 3]), r"annotation 3: expected bbox as \[x, y"),
    "not finite": (lambda c: c["annotations"][2].update(bbox=[1, 2, 3, float("nan")]), "annotation 3: expected bbox"),
    "empty": (lambda c: c.update(images=[], annotations=[]), "has no images or no categories"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_annotations_is_said(folder: Callable[..., Path], case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        CocoFolder(folder(change), "train")


def test_missing_files_are_said_with_where_they_were_looked_for(folder: Callable[..., Path], tmp_path: Path) -> None:
    root = folder()
    with pytest.raises(FileNotFoundError, match=r"no annotations for 'val'; expected .*instances_val\*.json.*it has"):
        CocoFolder(root, "val")
    with pytest.raises(FileNotFoundError, match=r"it has no .json files at all"):
        CocoFolder(tmp_path / "nowhere", "train")
    for file in (root / "train2017").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"looked for '1.png' in .*train2017"):
        CocoFolder(root, "train")
    (root / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(ValueError, match="2 files annotations/instances_train"):
        CocoFolder(root, "train")
    (root / "annotations" / "instances_train2017.json").unlink()
    (root / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        CocoFolder(root, "train")


def test_classes_of_validation_are_those_of_training(folder: Callable[..., Path]) -> None:
    root = folder(splits=("train", "val"))
    assert CocoFolder(root, "val", classes=("toothbrush", "train"))[0].target["labels"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"categories \['toothbrush'\] are not among \['train'\]"):
        CocoFolder(root, "val", classes=("train",))


def test_scenes_of_digits_are_the_same_for_the_same_seed_and_boxes_hold_the_ink(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_digits(tmp_path / name, train=6, val=2, seed=seed)
    one, again, other = (CocoFolder(tmp_path / name, "train") for name in ("one", "again", "other"))
    assert all(torch.equal(a.image, b.image) for a, b in zip((one[i] for i in range(6)), (again[i] for i in range(6))))
    assert not torch.equal(one[0].image, other[0].image)
    for index in range(len(one)):
        sample = one[index]
        paper, ink = torch.ones(96, 96, dtype=torch.bool), []
        for x, y, u, v in sample.target["boxes"].int().tolist():
            paper[y:v, x:u] = False
            ink.append(sample.image[0, y:v, x:u].max())
        assert len(ink) >= 1
        assert min(ink) > sample.image[0][paper].mean() + 0.2


def test_scenes_that_are_there_are_kept_and_somebody_elses_left_alone(tmp_path: Path) -> None:
    write_digits(tmp_path, train=4, val=1)
    file = tmp_path / "train" / "00000.png"
    before = file.stat().st_mtime_ns
    write_digits(tmp_path, train=4, val=1)
    assert file.stat().st_mtime_ns == before
    write_digits(tmp_path, train=4, val=1, seed=1)
    assert file.stat().st_mtime_ns != before
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(FileExistsError, match="is not of digits"):
        write_digits(tmp_path, train=4, val=1)
    with pytest.raises(ValueError, match="at least 44 pixels"):
        write_digits(tmp_path / "small", side=32)
