"""Runs a script as `python` would, with the `ext_*` models registered: for where discovery is off or not installed."""

import runpy
import sys
from pathlib import Path

from .. import models  # noqa: F401 registers them

__all__ = ["run_script"]


def run_script(argv: list[str]) -> None:
    """Run `script.py ARGS` or `-m module ARGS` as `__main__`, with `sys.argv` and `sys.path[0]` as python sets them.

    Raises:
        ValueError: No script or module is named.
        FileNotFoundError: The script is not there.
    """
    target, *args = argv or [""]
    if target == "-m":
        if not args:
            raise ValueError("expected a module after -m, as in: timm-ext run -m package.module ARGS")
        sys.argv, sys.path[0] = args, ""
        runpy.run_module(args[0], run_name="__main__", alter_sys=True)
        return
    if not Path(target).is_file():
        raise FileNotFoundError(f"no script {target!r}; expected: timm-ext run script.py ARGS")
    sys.argv, sys.path[0] = [target, *args], str(Path(target).resolve().parent)
    runpy.run_path(target, run_name="__main__")
