"""Runs a script as `python` would, with the `ext_*` models registered: for where discovery is off or not installed."""

import importlib.util
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .. import models  # noqa: F401 registers them

__all__ = ["run_script"]

OURS = (__file__, runpy.__file__, "<frozen runpy>")
"""Files whose frames are not shown to the user."""


def run_script(argv: list[str]) -> None:
    """Run `script.py ARGS` or `-m module ARGS` as `__main__`, with `sys.argv` and `sys.path[0]` as python sets them.

    Raises:
        ValueError: No script or module is named, or there is no such module.
        FileNotFoundError: The script is not there.
        SystemExit: The script ended so, or raised an error, which is printed as python prints it.
    """
    target, *args = argv or [""]
    if target != "-m":
        if not Path(target).is_file():
            raise FileNotFoundError(f"no script {target!r}; expected: timm-ext run script.py ARGS")
        sys.argv, sys.path[0] = [target, *args], str(Path(target).resolve().parent)
        return _as_python(lambda: runpy.run_path(target, run_name="__main__"))
    if not args:
        raise ValueError("expected a module after -m, as in: timm-ext run -m package.module ARGS")
    sys.argv, sys.path[0] = args, ""
    if not _is_module(args[0]):
        raise ValueError(f"no module {args[0]!r}; expected: timm-ext run -m package.module ARGS")
    return _as_python(lambda: runpy.run_module(args[0], run_name="__main__", alter_sys=True))


def _as_python(run: Callable[[], object]) -> None:
    """Run, and print an error as python does, without the frames of this package."""
    try:
        run()
    except (Exception, KeyboardInterrupt) as error:
        error = error.with_traceback(_of_the_script(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _of_the_script(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    return trace


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False
