"""The public face: every name is there, has a page, and is not hidden by a module."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import timm_backbones_ext as tbx

MODULES = ("deploy", "models", "testing")
NAMES = [name for name in tbx.__all__ if name not in (*MODULES, "__version__")]
REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "reference.md"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_docstring_and_stands_in_the_reference(name: str) -> None:
    assert re.search(rf"^::: timm_backbones_ext\.[\w.]+\.{name}$", REFERENCE.read_text(), re.MULTILINE)
    value = getattr(tbx, name)
    assert isinstance(value, dict) or value.__doc__


def test_every_name_of_the_reference_can_be_imported() -> None:
    for path in re.findall(r"^::: ([\w.]+)$", REFERENCE.read_text(), re.MULTILINE):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_no_public_function_is_hidden_by_a_module_of_its_name() -> None:
    assert {item.name for item in pkgutil.iter_modules(tbx.__path__)} & set(tbx.__all__) == set(MODULES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imports", "autoload"),
    [
        ("import timm_backbones_ext, timm", "0"),  # tests/cli/test_autoload.py has these two with discovery
        ("import timm, timm_backbones_ext", "0"),
        ("from timm_backbones_ext import edit, pull", "0"),
        ("from timm_backbones_ext.edits import EDITS", "0"),
        ("from timm_backbones_ext.edits import EDITS", "1"),
        ("from timm_backbones_ext.layers.deform import DeformConv2d", "0"),
        ("from timm_backbones_ext.layers.deform import DeformConv2d", "1"),
        ("import timm_backbones_ext.models", "0"),
        ("from timm_backbones_ext.errors import HubError", "0"),
        ("from timm_backbones_ext.errors import HubError", "1"),
    ],
)
def test_models_are_registered_in_every_order_of_imports(imports: str, autoload: str) -> None:
    code = (
        f"{imports}; import timm, sys; assert timm.is_model('ext_resnet50_dcn');"
        "import timm_backbones_ext.edits as e; assert sys.modules['timm_backbones_ext.registry'].Edit is e.Edit"
    )
    env = {**os.environ, "TIMM_BACKBONES_EXT_AUTOLOAD": autoload}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_neither_torch_nor_timm() -> None:
    code = "import sys, timm_backbones_ext; print({'torch', 'timm', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
