"""fastai: `vision_learner` with a timm name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastai.vision.all import Callback, CategoryBlock, DataBlock, ImageBlock, vision_learner
from PIL import Image

CLIENT = "fastai"
REMARK = "Trains on `forward_features`: the norm after a ConvNeXt's pooling is left out, for timm's names too."
UNUSED = ["head.norm.weight", "head.norm.bias"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images in two classes."""
    noise = np.random.default_rng(0)
    for i in range(8):
        kind = tmp_path / ("even", "odd")[i % 2]
        kind.mkdir(exist_ok=True)
        Image.fromarray(noise.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(kind / f"{i}.png")
    return tmp_path


class Watch(Callback):
    """Looks at the gradients that the learner has made, just before it uses them."""

    def __init__(self, check: Callable) -> None:
        super().__init__()
        self.check, self.seen = check, 0

    def before_step(self) -> None:
        body = self.learn.model[0].model
        self.check(body, UNUSED if "convnext" in body.pretrained_cfg["architecture"] else ())
        self.seen += 1


def test_a_vision_learner_fits_one_cycle(name: str, folder: Path, learned: Callable) -> None:
    """`vision_learner(data, NAME)`, a cycle, discriminative rates, prediction"""
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=lambda path: sorted(path.rglob("*.png")),
        get_y=lambda path: path.parent.name,
        splitter=lambda items: (range(6), range(6, 8)),
    )
    data = block.dataloaders(folder, bs=2, num_workers=0)
    watch = Watch(learned)
    learner = vision_learner(data, name, pretrained=False, cbs=[watch])
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1, slice(1e-5, 1e-3))
        assert learner.predict(folder / "odd" / "1.png")[0] in ("even", "odd")
    assert watch.seen == 3
