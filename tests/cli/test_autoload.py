"""Discovery without an import, in fresh interpreters; whatever goes wrong, torch and timm import."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import timm_backbones_ext as tbx

ROOT = Path(tbx.__file__).parents[1]


def python(*args: str, check: bool = True, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
    """A fresh interpreter; variables set to "" are removed."""
    environment = {key: value for key, value in {**os.environ, **env}.items() if value}
    command = [sys.executable, *args]
    return subprocess.run(command, env=environment, check=check, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_the_entry_point_is_installed() -> None:
    (entry,) = importlib.metadata.entry_points(group="torch.backends", name="timm_backbones_ext")
    assert entry.value == "_timm_backbones_ext_autoload:install"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import timm",
        "import timm.models",
        "from timm.models import create_model",
        "import timm.layers, timm",
        "import torch, timm",
        "import torchvision, timm",
        "import timm_backbones_ext, timm",
        "import timm, timm_backbones_ext",
    ],
)
def test_models_are_there_whatever_is_imported_first(imports: str) -> None:
    code = f"{imports}\nimport timm, sys\nassert timm.is_model('ext_resnet50'), sys.meta_path"
    assert python("-W", "error::RuntimeWarning", "-c", code).stderr == ""


def test_a_name_of_the_registry_that_is_used_first_knows_the_models() -> None:
    code = "import timm_backbones_ext as tbx; names = tbx.list_variants(); import timm_backbones_ext.registry as again"
    assert python("-c", f"{code}; print(again.VARIANTS.keys() == set(names))").stdout == "True\n"


def test_torch_alone_imports_neither_timm_nor_us() -> None:
    done = python("-c", "import torch, sys; print([m for m in sys.modules if 'timm' in m])")
    assert done.stdout.strip() == "['_timm_backbones_ext_autoload']"


@pytest.mark.slow
def test_nothing_is_left_in_the_import_system() -> None:
    code = "import timm, sys; print([f for f in sys.meta_path if 'Watcher' in repr(f)], vars(timm.models.__loader__))"
    done = python("-c", code)
    assert done.stdout.startswith("[] ")
    assert "exec_module" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["TIMM_BACKBONES_EXT_AUTOLOAD", "TORCH_DEVICE_BACKEND_AUTOLOAD"])
def test_it_can_be_switched_off_and_an_import_still_registers(switch: str) -> None:
    look = "print(timm.is_model('ext_resnet50'))"
    code = f"import timm; {look}; import timm_backbones_ext; {look}"
    assert python("-c", code, **{switch: "0"}).stdout.split() == ["False", "True"]


def test_timm_may_be_absent() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
sys.meta_path.insert(0, Absent())
import torch
try:
    import timm
except ModuleNotFoundError as error:
    print(error)
"""
    done = python("-W", "error", "-c", code)
    assert done.stdout.strip() == "No module named 'timm'"


BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "timm_backbones_ext.registry":
            raise OSError("disk on fire")
sys.meta_path.insert(0, Broken())
import timm
print(timm.is_model("resnet50"), timm.is_model("ext_resnet50"))
"""


@pytest.mark.slow
def test_when_our_package_is_broken_one_warning_names_the_cause() -> None:
    done = python("-c", BROKEN)
    assert done.stdout.split() == ["True", "False"]
    assert done.stderr.count("could not register its models (OSError: disk on fire)") == 1


@pytest.mark.slow
def test_when_our_package_is_broken_and_warnings_are_errors_timm_imports_all_the_same() -> None:
    done = python("-W", "error::RuntimeWarning", "-c", BROKEN)
    assert done.stdout.split() == ["True", "False"]
    assert "disk on fire" in done.stderr


@pytest.mark.slow
def test_threads_that_import_timm_at_once_all_see_the_models() -> None:
    code = """
import threading
seen = []
def look():
    import timm
    seen.append(timm.is_model("ext_resnet50"))
threads = [threading.Thread(target=look) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(seen)
"""
    assert python("-c", code).stdout.strip() == str([True] * 4)


SPAWN = """
import torch
from torch.utils.data import DataLoader, Dataset

class Names(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        import timm
        return len(timm.create_model("ext_resnet18", features_only=True, device="meta").feature_info)

if __name__ == "__main__":
    print([int(item) for item in DataLoader(Names(), num_workers=1, multiprocessing_context="spawn")])
"""


@pytest.mark.slow
def test_spawned_workers_know_the_models(tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text(SPAWN)
    assert python(str(tmp_path / "loader.py")).stdout.strip() == "[5, 5]"


@pytest.mark.slow
def test_torchrun_ranks_know_the_models(tmp_path: Path) -> None:
    code = "import os, timm; timm.create_model('ext_resnet18', device='meta'); print('rank', os.environ['RANK'])"
    (tmp_path / "ranks.py").write_text(code)
    done = python("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(tmp_path / "ranks.py"))
    assert {"rank 0", "rank 1"} <= set(done.stdout.splitlines())


RUN = ["-m", "timm_backbones_ext.cli", "run"]


@pytest.mark.slow
def test_a_script_is_run_with_the_models_registered(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("NAME = 'ext_resnet18'")
    (tmp_path / "script.py").write_text(
        "import sys, timm, neighbour\nprint(__name__, timm.is_model(neighbour.NAME), sys.argv[1:])"
    )
    done = python(*RUN, str(tmp_path / "script.py"), "--flag", "x", TIMM_BACKBONES_EXT_AUTOLOAD="0")
    assert done.stdout.strip() == "__main__ True ['--flag', 'x']"


@pytest.mark.slow
def test_a_module_is_run_with_the_models_registered(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import sys, timm; print(timm.is_model('ext_resnet18'), sys.argv[1:])")
    done = python(*RUN, "-m", "tool", "--flag", cwd=tmp_path, TIMM_BACKBONES_EXT_AUTOLOAD="0", PYTHONPATH=str(ROOT))
    assert done.stdout.strip() == "True ['--flag']"


@pytest.mark.slow
@pytest.mark.parametrize("args", [["absent.py"], ["-m"]])
def test_a_script_that_is_not_there_is_a_usage_error(args: list[str]) -> None:
    done = python(*RUN, *args, check=False)
    assert done.returncode == 2
    assert "expected" in done.stderr
