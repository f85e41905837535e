"""An example application: train a detector on one of our backbones, with Accelerate, in one process or many.

A run is a folder: settings.json, log.csv, tensorboard/, checkpoints/ (to resume from), best/ (the detector with the
best mAP so far, see `saved.py`), detections.png and report.json. A run that was stopped resumes from its last epoch
with identical losses.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, gather_object, set_seed
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from ..._types import Model
from ...console import progress
from ...detection.freezing import convert_sync_batchnorm
from ...errors import BackboneError
from ...optim import param_groups
from .coco import CocoFolder, collate
from .digits import write_digits
from .evaluate import draw_detections, evaluate
from .logs import CsvTracker
from .saved import Design, build, load_detector, read_design, save_detector
from .settings import Settings

__all__ = ["train"]

COLUMNS = ["epoch", "lr", "loss", "classification", "bbox_regression", "bbox_ctrness", "mAP", "mAP_50", "mAP_75"]
CHECKPOINT = "checkpoints/epoch-{:04d}"
SCENES = 1000
TOLERATED = 0.01
"""Largest share of unreadable images."""


@dataclass
class State:
    """The progress of a run."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    """Figures of the best detector so far."""


def train(settings: Settings, output: str | Path, *, resume: bool = False) -> dict[str, Any] | None:
    """Train, and write a run's folder.

    `accelerate launch` and `torchrun` start several processes; each must call this function.

    Args:
        settings: Settings of the run.
        output: Folder of the run.
        resume: Resume from the last checkpoint, or start if there is none. Only `epochs` may differ, and may only
            grow; the learning rate then follows the longer cosine.

    Returns:
        On the main process, the content of report.json: figures of the best detector, epochs, steps and seconds.

    Raises:
        FileExistsError: The folder holds a run, and `resume` is false.
        ValueError: Settings, data or backbone are wrong, the run to resume had other settings, or more than 1 % of the
            images are unreadable.
        BackboneError: The loss is not finite.
    """
    output = Path(output)
    tracker = CsvTracker(output / "log.csv", COLUMNS)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else torchrun's processes on a CPU would train separately
        mixed_precision=settings.precision,
        log_with=["tensorboard", tracker],
        project_dir=output,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=settings.seed),
    )
    file = output / "settings.json"
    if file.exists():
        _require_same(settings, file, resume)
    accelerator.wait_for_everyone()
    run = Run(accelerator, settings, output)
    if accelerator.is_main_process:  # written only after the model could be built
        output.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    tracker.keep = run.state.step
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": run.state.step + 1}})
    return run()


def _require_same(settings: Settings, file: Path, resume: bool) -> None:
    """Raise an error if the folder holds a run, unless it is resumed with the same settings or more epochs."""
    if not resume:
        raise FileExistsError(f"{file.parent} holds a run already; resume it, or choose another folder")
    now, held = asdict(settings), json.loads(file.read_text(encoding="utf-8"))
    if now["epochs"] > held["epochs"]:
        held["epochs"] = now["epochs"]
    if differ := [f"{key} was {held.get(key)!r} and is {now[key]!r}" for key in now if held.get(key) != now[key]]:
        raise ValueError(f"the run in {file.parent} began with other settings: {', '.join(differ)}")


class Run:
    """A run in one process."""

    def __init__(self, accelerator: Accelerator, settings: Settings, output: Path) -> None:
        self.accelerator, self.settings, self.output, self.state = accelerator, settings, output, State()
        self.train_data, self.val_data = self._data()
        self.unreadable: set[str] = set()
        set_seed(settings.seed)
        self.design, model = self._detector()
        groups = param_groups(model, settings.lr, settings.weight_decay, layer_decay=settings.layer_decay)
        optimizer = torch.optim.AdamW(groups)
        loaders = self._loader(self.train_data, train=True), self._loader(self.val_data, train=False)
        prepared = accelerator.prepare(model, optimizer, *loaders)
        self.model, self.optimizer, self.train_loader, self.val_loader = prepared
        self.steps = settings.epochs * len(self.train_loader)
        self.schedule = CosineLRScheduler(
            optimizer, self.steps + 1, warmup_t=min(500, self.steps // 10), t_in_epochs=False
        )
        set_seed(settings.seed, device_specific=True)
        if checkpoints := sorted(output.glob(CHECKPOINT.replace("{:04d}", "????"))):
            accelerator.load_state(str(checkpoints[-1]))
            self.state = State(**json.loads((checkpoints[-1] / "state.json").read_text(encoding="utf-8")))

    def __call__(self) -> dict[str, Any] | None:
        """Train the epochs that are left, and write the report."""
        before, began = self.state.seconds, time.perf_counter()
        if self.settings.start and not self.state.step:
            self._evaluate()
        with self._progress() as advance:
            for epoch in range(self.state.epoch, self.settings.epochs):
                self._train(epoch, advance)
                if (epoch + 1) % self.settings.eval_every == 0 or epoch + 1 == self.settings.epochs:
                    self._evaluate()
                self.state.seconds = before + time.perf_counter() - began
                self._checkpoint()
        report = self._report()
        self.accelerator.end_training()
        return report

    def _data(self) -> tuple[CocoFolder, CocoFolder]:
        kind, _, rest = self.settings.data.partition(":")
        if kind == "digits":
            scenes = int(rest or SCENES)
            with self.accelerator.main_process_first():
                root = write_digits(self.output / "digits", train=scenes, val=max(scenes // 5, 1))
        else:
            root = Path(rest).expanduser()
        train = CocoFolder(root, "train", flip=self.settings.flip)
        val = CocoFolder(root, "val", crowds=True, classes=train.classes)
        for note in (*train.notes, *val.notes):
            self.accelerator.print(note)
        return train, val

    def _detector(self) -> tuple[Design, Model]:
        asked = self.settings
        names = ("backbone", "edits", "levels", "out_channels", "num_convs", "min_size", "max_size")
        published = asked.pretrained or bool(asked.start and read_design(asked.start).pretrained)
        design = Design(
            **{name: getattr(asked, name) for name in names}, classes=self.train_data.classes, pretrained=published
        )
        with self.accelerator.local_main_process_first():  # the other processes then find the weights in the cache
            if asked.start:
                _require_same_heads(asked.start, design)
                model = load_detector(asked.start, design=design, freeze_at=asked.freeze_at)
            else:
                model = build(design, pretrained=asked.pretrained, freeze_at=asked.freeze_at)
        if asked.sync_bn:
            model.backbone = convert_sync_batchnorm(model.backbone)
        return design, model

    def _loader(self, data: CocoFolder, *, train: bool) -> DataLoader[Any]:
        size, count = self.settings.batch_size, self.settings.batch_size * self.accelerator.num_processes
        if train and len(data) < count:
            raise ValueError(f"{len(data)} images are fewer than one batch of {count}; choose a smaller batch_size")
        options: dict[str, Any] = {"shuffle": train, "drop_last": train, "collate_fn": collate}
        return DataLoader(data, size, num_workers=self.settings.workers, **options)

    def _progress(self) -> AbstractContextManager[Callable[[str], None]]:
        left = self.steps - self.state.step
        if left and self.accelerator.is_main_process:
            return progress(left, "step", every=len(self.train_loader))
        return nullcontext(lambda words: None)

    def _train(self, epoch: int, advance: Callable[[str], None]) -> None:
        """One epoch."""
        self.model.train()
        self.train_loader.set_epoch(epoch)
        self.state.epoch = epoch + 1
        for images, targets, unreadable in self.train_loader:
            self._count(unreadable)
            self.state.step += 1
            self.schedule.step_update(self.state.step)
            losses = self._step(images, targets)
            lr = max(group["lr"] for group in self.optimizer.param_groups)
            self.accelerator.log({"epoch": self.state.epoch, "lr": lr, **losses}, step=self.state.step)
            advance(f"epoch {self.state.epoch}/{self.settings.epochs}, loss {losses['loss']:.3f}")

    def _step(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, float]:
        """Train on a batch; returns the mean losses over all processes."""
        losses = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        values = self.accelerator.reduce(torch.stack([loss, *losses.values()]).detach(), "mean").tolist()
        found = dict(zip(("loss", *losses), values, strict=True))
        if not math.isfinite(found["loss"]):
            raise BackboneError(f"step {self.state.step}: the loss is not finite: {found}; lower the learning rate")
        return found

    def _count(self, unreadable: Sequence[str]) -> None:
        self.unreadable.update(unreadable)
        total = len(self.train_data) + len(self.val_data)
        if len(self.unreadable) > TOLERATED * total:
            raise ValueError(
                f"more than {TOLERATED:.0%} of {total} images cannot be read: {'; '.join(sorted(self.unreadable)[:5])}"
            )

    def _evaluate(self) -> None:
        """Evaluate, log, and save the detector if it is the best so far."""
        figures = evaluate(self.accelerator, self.model, self._counted(self.val_loader))
        if figures is not None:
            self.accelerator.log({"epoch": self.state.epoch, **figures}, step=self.state.step)
            if figures["mAP"] >= self.state.best.get("mAP", 0.0):
                self.state.best = figures
                data = self.settings.data.partition(":")[0]
                save_detector(
                    self.accelerator.unwrap_model(self.model), self.output / "best", self.design, figures, data
                )
        self.accelerator.wait_for_everyone()

    def _counted(self, loader: Iterable[Any]) -> Iterator[Any]:
        for batch in loader:
            self._count(batch[2])
            yield batch

    def _checkpoint(self) -> None:
        folder = self.output / CHECKPOINT.format(self.state.epoch)
        draft = folder.with_suffix(".draft")
        if self.accelerator.is_main_process:
            shutil.rmtree(draft, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(draft))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (draft / "state.json").write_text(json.dumps(asdict(self.state)) + "\n", encoding="utf-8")
            draft.rename(folder)
            for older in folder.parent.iterdir():
                if older != folder:
                    shutil.rmtree(older)
        self.accelerator.wait_for_everyone()

    def _report(self) -> dict[str, Any] | None:
        unreadable = sorted(set(gather_object(list(self.unreadable))))
        if not self.accelerator.is_main_process:
            return None
        draw_detections(load_detector(self.output / "best"), self.val_data, self.output / "detections.png")
        report = {**asdict(self.state), "processes": self.accelerator.num_processes, "unreadable": unreadable}
        (self.output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return report


def _require_same_heads(start: str, design: Design) -> None:
    """Require that neck and head of a saved detector are those of a design."""
    held = read_design(start)
    names = ("levels", "out_channels", "num_convs", "classes")
    pairs = {name: (getattr(held, name), getattr(design, name)) for name in names}
    if differ := [f"{name} {old!r} there, {new!r} here" for name, (old, new) in pairs.items() if old != new]:
        raise ValueError(f"the detector in {start} does not fit: {'; '.join(differ)}")
