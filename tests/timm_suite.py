"""Runs timm's own test-suite, unchanged, from the sdist of the installed timm, for every `ext_*` name.

    python tests/timm_suite.py [NAME ...]

The tests that download pretrained weights cannot run without a network and are left out; ours load local files. Models
above `LARGE` parameters run every test only when they are named: two of them in training exceed the memory of a small
machine, and the rest of their tests, with the whole suite on the smaller members of each family, say the same. The
deeper nets for 32x32 images and ResNet-1001 run no test unless they are named. A tag is left out where it gives its
test the same numbers and names as another tag of its architecture.
"""

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path

import timm
import torch

CACHE = Path(__file__).parents[1] / ".cache" / "timm"
DOWNLOADS = ("test_model_load_pretrained", "test_model_features_pretrained", "test_model_inference")
KINDS = 11
"""Tests that every architecture is to have."""
LARGE = 40e6
HEAVY = ("backward", "fx", "torchscript", "contract")
"""Words in the names of the tests that large models run only when they are named; the one of a contract trains too."""
TAGGED = "test_model_default_cfgs"
"""The test that every tag has. Tags of one architecture that agree in all that it `READS` are tested once."""
READS = ("input_size", "fixed_input_size", "min_input_size", "pool_size", "num_classes", "classifier", "first_conv")
DEEP = ("_cifar", "_resnet1001")
"""Endings of the names of nets that have hundreds of layers, and of their smaller siblings."""
SMALLEST = ("ext_vgg11", "ext_vgg11_bn", "ext_resnet20_cifar", "ext_plainnet20_cifar")
"""Members of a family that run every test, though `LARGE` or one of many nets for 32x32 images."""


def main(names: list[str]) -> int:
    """Collect, count, run; the exit status is pytest's."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(sdist(importlib.metadata.version("timm")), Path(scratch))
        selected = select(folder, names)
        print(f"{len(selected)} of timm's tests for {len(by_architecture(selected))} ext_ architectures", flush=True)
        return pytest(
            folder, "-n", "2", "--dist", "worksteal", "-q", "--no-header", f"@{write(folder, selected)}"
        ).returncode


def sdist(version: str) -> Path:
    """The source distribution of a timm version, downloaded once."""
    file = CACHE / f"timm-{version}.tar.gz"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", f"timm=={version}"]
        subprocess.run([sys.executable, *command, "--dest", str(CACHE)], check=True)
    return file


def unpack(file: Path, scratch: Path) -> Path:
    """The tests and their configuration, without timm's sources: the installed ones are to be tested."""
    with tarfile.open(file) as archive:
        archive.extractall(scratch / "sdist", filter="data")
    (source,) = (scratch / "sdist").iterdir()
    folder = scratch / "suite"
    shutil.copytree(source / "tests", folder / "tests")
    shutil.copy(source / "pyproject.toml", folder)
    return folder


def pytest(folder: Path, *args: str, **kwargs: object) -> subprocess.CompletedProcess:
    """Run pytest on timm's tests with our models registered before they are collected."""
    env = {key: value for key, value in os.environ.items() if key != "GITHUB_ACTIONS"}
    env |= {"TORCH_BACKEND": "timm_backbones_ext", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parent)}
    env.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each wait for each other
    command = [sys.executable, "-m", "pytest", "-p", "timm_plugin", "-W", "ignore", "-p", "no:cacheprovider"]
    if not args[-1].startswith("@"):
        args = (*args, "tests/test_models.py")
    return subprocess.run([*command, *args], cwd=folder, env=env, **kwargs)


def select(folder: Path, names: list[str]) -> list[str]:
    """Ids of the tests of our names; every architecture has at least `KINDS` of them, and all have the same."""
    found = pytest(folder, "--collect-only", "-q", "-k", "1-ext_ or 2-ext_ or [ext_", stdout=subprocess.PIPE, text=True)
    ids = [line for line in found.stdout.splitlines() if line.startswith("tests/") and test_of(line) not in DOWNLOADS]
    groups = by_architecture(once(ids))
    if not groups:
        sys.exit(f"no test was collected:\n{found.stdout[-2000:]}")
    if unknown := set(names) - groups.keys():
        sys.exit(f"no tests for {', '.join(sorted(unknown))}; there are: {', '.join(sorted(groups))}")
    kinds = {name: {test_of(item) for item in items} for name, items in groups.items()}
    expected = set.union(*kinds.values())
    if len(expected) < KINDS or any(kind != expected for kind in kinds.values()):
        lacking = {name: sorted(expected - kind) for name, kind in kinds.items() if kind != expected}
        sys.exit(f"expected {KINDS} kinds of tests for every name; got {len(expected)}, lacking {lacking}")
    if names:
        return [item for name in names for item in groups[name]]
    return [item for name, items in groups.items() for item in items if affordable(name, test_of(item))]


def once(ids: list[str]) -> list[str]:
    """Test ids without those of a tag that says nothing new to the test."""
    unlike: dict[object, str] = {}
    for item in ids:
        name = re.search(r"ext_[\w.]+", item.partition("[")[2]).group()
        reads = [timm.get_pretrained_cfg_value(name, key) for key in READS] if test_of(item) == TAGGED else item
        unlike.setdefault((test_of(item), name.partition(".")[0], repr(reads)), item)
    return list(unlike.values())


@functools.cache
def params(name: str) -> int:
    """Parameters of a model, counted without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


def affordable(name: str, test: str) -> bool:
    """Whether a test of an architecture runs when all of them are asked for."""
    if name.endswith(DEEP):
        return name in SMALLEST
    return not any(word in test for word in HEAVY) or name in SMALLEST or params(name) < LARGE


def test_of(item: str) -> str:
    """`test_model_forward` of `tests/test_models.py::test_model_forward[1-ext_resnet18]`."""
    return item.partition("::")[2].partition("[")[0]


def by_architecture(ids: list[str]) -> dict[str, list[str]]:
    """Test ids by the architecture, without tag, that they are for."""
    groups = defaultdict(list)
    for item in ids:
        if match := re.search(r"ext_\w+", item.partition("[")[2]):
            groups[match.group()].append(item)
    return groups


def write(folder: Path, ids: list[str]) -> Path:
    """A file of test ids, as pytest takes them after an @."""
    file = folder / "selected.txt"
    file.write_text("\n".join(ids))
    return file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
