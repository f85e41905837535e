"""Mean average precision of a detector by COCO's rules, and a picture of its detections."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes, make_grid

from .coco import CocoFolder

__all__ = ["draw_detections", "evaluate"]

FIGURES = {"mAP": "map", "mAP_50": "map_50", "mAP_75": "map_75"}
"""Our names for torchmetrics'."""
LINE = 18  # pixels of a line of the legend


@torch.inference_mode()
def evaluate(accelerator: Accelerator, model: nn.Module, loader: Iterable[Any]) -> dict[str, float] | None:
    """Mean average precision over IoU 0.5 to 0.95, at 0.5 and at 0.75, by COCO's rules; crowds are ignored.

    Args:
        accelerator: Every process must call this function; each evaluates its share of the images.
        model: A detector of torchvision's; in eval mode afterwards.
        loader: Batches of images, targets and unreadable files, prepared by the accelerator.

    Returns:
        The figures, from 0 to 1, on the main process; None on the others.
    """
    model = accelerator.unwrap_model(model).eval()
    own: list[tuple[int, Any, Any]] = []
    for images, targets, _ in loader:
        found = model(images)
        rows = zip(targets, found, strict=True)
        own += [(int(target["image_id"]), _on_cpu(prediction), _on_cpu(target)) for target, prediction in rows]
    # keyed by image, since Accelerate repeats images where batches do not come out even
    everything = {row[0]: row[1:] for row in gather_object(own)}
    return _figures(everything.values()) if accelerator.is_main_process else None


def _on_cpu(item: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.cpu() for key, value in item.items()}


def _figures(rows: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(backend="faster_coco_eval", sync_on_compute=False)
    metric.warn_on_many_detections = False
    metric.update(*map(list, zip(*rows, strict=True)))
    result = metric.compute()
    return {
        name: max(float(result[theirs]), 0.0) for name, theirs in FIGURES.items()
    }  # torchmetrics says -1 where the data has no box


@torch.inference_mode()
def draw_detections(
    model: nn.Module, data: CocoFolder, file: str | Path, *, count: int = 8, score: float = 0.3, side: int = 256
) -> None:
    """Draw what a detector finds in the first images of a data set, with a legend below.

    Boxes of the data are green, boxes of the detector red.

    Args:
        model: A detector of torchvision's, in eval mode.
        data: The images.
        file: PNG to write.
        count: Images.
        score: Detections with a lower score are not drawn.
        side: Side in pixels of the square that holds each image.
    """
    device = next(model.parameters()).device
    tiles, drawn = [], 0
    for index in range(min(count, len(data))):
        sample = data[index]
        (found,) = model([sample.image.to(device)])
        best = nms(found["boxes"], found["scores"], 0.5)  # where classes overlap, the one with the highest score
        boxes, labels, scores = (found[key][best].cpu() for key in ("boxes", "labels", "scores"))
        words = [
            f"{data.classes[i]} {s:.2f}" for i, s in zip(labels.tolist(), scores.tolist(), strict=True) if s > score
        ]
        drawn += len(words)
        tiles.append(_tile(sample.image, sample.target["boxes"], boxes[scores > score], words, side))
    picture = to_pil_image(make_grid(torch.stack(tiles), nrow=4, padding=4, pad_value=255))
    found_words = f"found with a score above {score}{'' if drawn else ': nothing'}"
    _with_legend(picture, (("lime", "in the data"), ("red", found_words))).save(file)


def _with_legend(picture: Image.Image, lines: Sequence[tuple[str, str]]) -> Image.Image:
    """A picture with lines below it: a box in a colour, and what the colour means."""
    whole = Image.new("RGB", (picture.width, picture.height + LINE * len(lines)), "white")
    whole.paste(picture)
    pen = ImageDraw.Draw(whole)
    for row, (colour, words) in enumerate(lines):
        top = picture.height + LINE * row
        pen.rectangle((6, top + 3, 16, top + 13), outline=colour, width=2)
        pen.text((24, top + 2), words, fill="black")
    return whole


def _tile(image: Tensor, expected: Tensor, found: Tensor, labels: Sequence[str], side: int) -> Tensor:
    """(3, side, side) bytes: an image with boxes, scaled before they are drawn."""
    scale = side / max(image.shape[-2:])
    image = F.interpolate(image[None], scale_factor=scale, mode="bilinear", antialias=scale < 1)[0].clamp(0, 1)
    picture = (image * 255).byte()
    for boxes, names, colour in ((expected, None, "lime"), (found, list(labels), "red")):
        if len(boxes):
            picture = draw_bounding_boxes(picture, boxes * scale, names, colour, width=2)
    return F.pad(picture, (0, side - picture.shape[-1], 0, side - picture.shape[-2]))
