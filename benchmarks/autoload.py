"""What discovery costs: our entry point's share of `import torch`, and the registration's share of `import timm`.

    python benchmarks/autoload.py [ROUNDS]

Fresh processes, the kinds interleaved, bytecode cached; writes benchmarks/autoload.json. Imports are measured in
seconds of the processor, which other programs on the machine do not change.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HOOK = """
import time
import torch
from importlib.metadata import entry_points
import sys
sys.modules.pop("_timm_backbones_ext_autoload", None)
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "Watcher"]
start = time.perf_counter()
(entry,) = entry_points(group="torch.backends", name="timm_backbones_ext")
found = time.perf_counter()
entry.load()()
print(found - start, time.perf_counter() - found)
"""
IMPORT = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds(code: str, *, autoload: bool = True) -> list[float]:
    """Numbers that a fresh process prints."""
    env = os.environ | {"TIMM_BACKBONES_EXT_AUTOLOAD": str(int(autoload)), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def main(rounds: int = 15) -> None:
    """Measure, print and write."""
    hook, torch, timm_on, timm_off = [], [], [], []
    seconds(IMPORT.format("timm"))  # writes the bytecode
    for _ in range(rounds):
        hook.append(seconds(HOOK)[1] * 1e3)
        torch += seconds(IMPORT.format("torch"))
        timm_on += seconds(IMPORT.format("timm"))
        timm_off += seconds(IMPORT.format("timm"), autoload=False)
    result = {
        "hook_ms": {"median": round(statistics.median(hook), 3), "max": round(max(hook), 3)},
        "hook_share_of_import_torch": round(statistics.median(hook) / 1e3 / statistics.median(torch), 5),
        "import_timm_with_models_ratio": round(statistics.median(timm_on) / statistics.median(timm_off), 3),
        "rounds": rounds,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "timm", "timm-backbones-ext")},
    }
    text = json.dumps(result, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    print(text)
    if result["hook_ms"]["median"] >= 5:
        sys.exit("the entry point takes 5 ms or more of `import torch`")
    if result["import_timm_with_models_ratio"] > 1.03:
        sys.exit("registering the models takes more than 3 % of `import timm`")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
