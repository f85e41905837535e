"""What the installed command imports, and what registering the models imports: told by Python itself."""

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

SCRIPT = Path(sys.executable).with_name("timm-ext")
HEAVY = {"torch", "timm", "torchvision", "numpy", "matplotlib"}
COMPLETE = {"_TIMM_EXT_COMPLETE": "bash_complete", "COMP_WORDS": "timm-ext fea", "COMP_CWORD": "1"}


def imported(stderr: str) -> set[str]:
    """Names of the modules in the output of `python -X importtime`."""
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}


def top(modules: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (["--help"], {}, "Usage: timm-ext"),
        (["--version"], {}, "timm-ext, version"),
        (["features", "--help"], {}, "--overwrite"),
        (["classify", "--help"], {}, "--top"),
        (["doctor", "--help"], {}, "discovery"),
        (["train-detector", "--help"], {}, "--resume"),
        (["hub", "serve", "--help"], {}, "--allow-remote"),
        (["completion", "zsh"], {}, "compdef"),
        ([], COMPLETE, "features"),
    ],
)
def test_help_and_completion_import_neither_torch_nor_timm(args: list[str], env: dict[str, str], said: str) -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env})
    assert said in done.stdout
    modules = imported(done.stderr)
    assert "timm_backbones_ext.cli.main" in modules
    assert not HEAVY & top(modules)


def test_serving_a_hub_imports_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "hub", "serve", str(tmp_path), "--port", "0"]
    with (
        (tmp_path / "imports").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        endpoint = re.search(r"http://[\d.:]+", server.stdout.readline()).group()
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
        connection.request("GET", "/api/models/me/absent")
        assert connection.getresponse().status in (401, 404)  # it serves
        connection.close()
        server.terminate()
    modules = imported((tmp_path / "imports").read_text())
    assert "uvicorn" in modules
    assert not HEAVY & top(modules)


@pytest.mark.slow
def test_registering_imports_nothing_of_what_is_built_on_the_models() -> None:
    code = "import sys, timm; assert timm.is_model('ext_resnet50'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if re.match(r"timm_backbones_ext\.", name)}
    rooms = {name.split(".")[1] for name in ours}
    assert {"registry", "edits", "families", "models"} <= rooms
    assert not rooms & {"apps", "catalog", "cli", "console", "detection", "fingerprints", "hub", "local_hub", "names"}
    assert not rooms & {"optim", "saving", "testing"}
