"""What is installed, what is missing for which command, whether discovery works, and what to do."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

import torch
from packaging.requirements import Requirement

from .._version import __version__

__all__ = ["Finding", "examine"]

PACKAGE = "timm-backbones-ext"
NEEDED_FOR = {
    "viz": "features, picture",
    "list": "list --html",
    "local-hub": "hub serve, hub mirror, hub fsck",
    "signing": "push --sign, verify --trust",
    "demo": "demo, depth-study, edit-study, weights package:NAME",
    "detection": "train-detector",
    "deploy": "deploy, export, with any runtime",
    "onnx": "deploy and export with ONNX Runtime",
    "openvino": "deploy and export with OpenVINO",
    "ncnn": "deploy and export with ncnn",
}
"""Commands by the extra that they need; the packages of an extra stand in the metadata."""
RUNTIMES = ("onnxruntime", "openvino", "ncnn")
SWITCHES = (
    "TIMM_BACKBONES_EXT_AUTOLOAD",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_XET",
)
DISCOVERY = "import timm; print(timm.is_model('ext_resnet18'))"


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    subject: str
    state: str
    fine: bool = True
    advice: str = ""
    """What to do; empty if nothing has to be done."""


def examine() -> Iterator[Finding]:
    """Look at this installation; takes some seconds, since discovery is tried in a new process."""
    yield Finding("timm-backbones-ext", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("timm", "torch", "torchvision", "huggingface_hub", "safetensors"):
        yield Finding(name, _version(name) or "missing", bool(_version(name)), _pip(name) * (not _version(name)))
    yield _discovery()
    yield from (Finding(name, os.environ[name]) for name in SWITCHES if name in os.environ)
    for extra, commands in NEEDED_FOR.items():
        missing = sorted(_missing(extra))
        state = f"missing {', '.join(missing)}" if missing else "installed"
        advice = f'for {commands}: pip install "{PACKAGE}[{extra}]"' if missing else ""
        yield Finding(f"extra {extra}", state, not missing, advice)
    for name in RUNTIMES:
        yield Finding(f"runtime {name}", _version(name) or ("installed" if find_spec(name) else "not installed"))
    yield Finding("devices", ", ".join(_devices()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _pip(name: str) -> str:
    return f"pip install {name}"


def _missing(extra: str) -> set[str]:
    """Packages of an extra that are not installed, by the metadata of this package; extras in it are followed."""
    found: set[str] = set()
    for text in requires(PACKAGE) or ():
        item = Requirement(text)
        if item.marker is None or not item.marker.evaluate({"extra": extra}) or item.marker.evaluate({"extra": ""}):
            continue
        if item.name.replace("_", "-") == PACKAGE:
            found.update(*(_missing(inner) for inner in item.extras))
        elif (there := _version(item.name)) is None or not item.specifier.contains(there, prereleases=True):
            found.add(f"{item.name}{item.specifier}" if there else item.name)
    return found


def _discovery() -> Finding:
    """Whether a new process of plain Python knows our models without importing them."""
    done = subprocess.run([sys.executable, "-c", DISCOVERY], capture_output=True, text=True)
    if done.stdout.strip() == "True":
        return Finding("discovery", "timm finds ext_ models without an import")
    switch = next((name for name in SWITCHES[:2] if os.environ.get(name, "1").strip().lower() in _OFF), None)
    cause = f"{switch} is off" if switch else (done.stderr.strip().splitlines() or ["no entry point is installed"])[-1]
    advice = f"unset {switch}, or" if switch else f"reinstall {PACKAGE}, or"
    return Finding("discovery", cause, False, f"{advice} import timm_backbones_ext, or use `timm-ext run script.py`")


_OFF = ("0", "false", "off", "no")


def _devices() -> Iterator[str]:
    yield f"CPU with {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index} {torch.cuda.get_device_name(index)}"
    others: dict[str, Callable[[], bool]] = {"mps": torch.backends.mps.is_available, "xpu": torch.xpu.is_available}
    yield from (name for name, there in others.items() if there())
