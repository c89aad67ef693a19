"""What is printed to a file or a pipe has no lines broken; a path stays one line on a narrow terminal."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from perceptual_mae.terminal import counting, messages, results, show_path

LONG = "/home/somebody/" + "folder/" * 30 + "report.html"


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def test_lines_are_whole_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    messages().print(f"training -> {LONG}")
    messages(quiet=True).print("of another process")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("data", LONG)
    results().print(table)
    shown = capsys.readouterr()
    assert shown.err == f"training -> {LONG}\n"
    assert shown.out == f"data  {LONG}\n"


def test_who_sets_a_width_gets_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    results().print("word " * 20)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


def test_a_path_is_one_line_on_a_narrow_terminal() -> None:
    shown = io.StringIO()
    show_path(Console(file=shown, force_terminal=True, width=40, color_system=None), f"report: {LONG} [/]")
    assert shown.getvalue() == f"report: {LONG} [/]\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_done_is_counted_where_somebody_looks(terminal: bool) -> None:
    shown = io.StringIO()
    with counting(Console(file=shown, force_terminal=terminal, width=80)) as progress:
        progress(3, 12)
    assert ("3/12" in shown.getvalue()) == terminal
