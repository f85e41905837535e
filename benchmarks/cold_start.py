"""How long a trained backbone takes to create and load from a local file, and how much memory, beside timm.

    python benchmarks/cold_start.py [ROUNDS]

Fresh processes, ours and timm's in turn; imports are not counted. Memory is the peak after every byte was
read, from Linux's /proc. Outputs are compared first. Writes
benchmarks/cold_start.json; `make figures` makes a page of it.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

NAMES = ("resnet50", "convnext_base", "efficientnet_b0", "vgg16_bn")
GOAL = {"resnet50": 4.0, "convnext_base": 4.0}
LOAD = """
import sys, time
from pathlib import Path
import timm, timm_backbones_ext.models
name, file = sys.argv[1:]
def memory(key):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before, start = memory("VmRSS"), time.perf_counter()
model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file}).eval()
seconds = time.perf_counter() - start
for tensor in (*model.parameters(), *model.buffers()):
    tensor.float().sum()  # read every byte
print(seconds, memory("VmHWM") - before)
"""


def measure(name: str, file: Path) -> tuple[float, int]:
    """Seconds, and bytes of peak memory after every tensor was read, in a fresh process."""
    command = [sys.executable, "-c", LOAD, name, str(file)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds, peak = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), int(peak)


def compare(name: str, file: Path) -> None:
    """Exit if the two loads give different outputs."""
    source = {"file": str(file)}
    models = [timm.create_model(n, pretrained=True, pretrained_cfg_overlay=source) for n in (name, f"ext_{name}")]
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        theirs, ours = (model.eval()(x) for model in models)
    if not torch.equal(theirs, ours):
        sys.exit(f"{name}: outputs differ by {(theirs - ours).abs().max():.1e}")


def row(name: str, rounds: int) -> dict[str, float]:
    """Medians for one architecture."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "weights.safetensors")
        save_file(timm.create_model(name).state_dict(), file)
        compare(name, file)
        pairs = [(measure(name, file), measure(f"ext_{name}", file)) for _ in range(rounds)]
        size = file.stat().st_size
    theirs, ours = (list(zip(*side, strict=True)) for side in zip(*pairs, strict=True))
    seconds = [statistics.median(side[0]) for side in (theirs, ours)]
    return {
        "timm_s": round(seconds[0], 3),
        "ours_s": round(seconds[1], 3),
        "times_faster": round(seconds[0] / seconds[1], 2),
        "timm_peak_of_file": round(statistics.median(theirs[1]) / size, 2),
        "ours_peak_of_file": round(statistics.median(ours[1]) / size, 2),
    }


def page(result: dict) -> str:
    """The figures as a page in Markdown."""
    machine, versions = result["machine"], result["versions"]
    rows = [
        f"| {name} | {facts['timm_s']} | {facts['ours_s']} | {facts['times_faster']} | {facts['timm_peak_of_file']} | "
        f"{facts['ours_peak_of_file']} |"
        for name, facts in result["models"].items()
    ]
    return f"""\
# Loading trained weights

Made by `benchmarks/cold_start.py`: `timm.create_model` with trained weights from a local file, all of them read once.
Each run is a fresh process, timm's model and the `ext_` one in turn; imports are not counted. Outputs are compared
first. Figures are medians of {result["rounds"]} rounds. Memory is the peak as a multiple of the file's size.

| model | timm, s | `ext_`, s | times as fast | timm, memory | `ext_`, memory |
|---|---|---|---|---|---|
{chr(10).join(rows)}

The `ext_` model is built without data and given the tensors of the file; nothing is initialised to be thrown away.
[Architecture](../concepts/architecture.md#how-a-model-is-loaded) has the steps.

Measured with torch {versions["torch"]} and timm {versions["timm"]} on {machine["cores"]} {machine["processor"]} cores.
"""


def main(rounds: int = 7) -> None:
    """Measure, print and write."""
    rows = {name: row(name, rounds) for name in NAMES}
    result = {
        "models": rows,
        "rounds": rounds,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)
    if missed := [name for name, goal in GOAL.items() if rows[name]["times_faster"] < goal]:
        sys.exit(f"less than the goal: {', '.join(missed)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
