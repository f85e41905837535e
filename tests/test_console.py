"""Tables on terminals of several widths and in pipes; JSON that every parser reads."""

import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from timm_backbones_ext.console import print_json

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

SHOW = """
from timm_backbones_ext.console import table
table(("name", "channels", "evidence"), [("dcn", 64, "a-hyphened-word " * 5), ("dilated_reparam", 1024, "none")])
"""
Terminal = Callable[..., str]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_table_fits_the_terminal_and_breaks_no_word(columns: int, terminal: Terminal) -> None:
    text = terminal(["-c", SHOW], COLUMNS=str(columns))
    assert max(map(len, text.splitlines())) <= columns
    assert text.count("a-hyphened-word") == 5
    assert {"dcn", "dilated_reparam"} <= set(text.split())


def test_numbers_are_flush_right_and_a_wide_terminal_has_one_line_per_row(terminal: Terminal) -> None:
    lines = terminal(["-c", SHOW], COLUMNS="200").splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["dcn", "dilated_reparam"]
    assert lines[2].index("64") + 2 == lines[3].index("1024") + 4


def test_a_terminal_that_is_too_narrow_has_the_cells_below_each_other(terminal: Terminal) -> None:
    lines = terminal(["-c", SHOW], COLUMNS="24").splitlines()
    assert lines[0] == "dcn"
    assert lines[1] == "  channels: 64;"
    assert lines[-2:] == ["  channels: 1024;", "  evidence: none"]


def test_no_color_is_obeyed(terminal: Terminal) -> None:
    assert "\x1b[" in terminal(["-c", SHOW], NO_COLOR="")
    assert "\x1b" not in terminal(["-c", SHOW])


def test_a_pipe_gets_one_line_per_row_with_tabs_between_the_cells() -> None:
    text = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout
    assert [len(line.split("\t")) for line in text.splitlines()] == [3, 3, 3]
    assert not re.search(r"[^\x20-\x7e\t\n]", text)


def test_json_is_strict_where_numbers_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"level 0": float("inf"), "rest": [float("nan"), 1.0]})
    said = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert said == {"level 0": "inf", "rest": ["nan", 1.0]}
