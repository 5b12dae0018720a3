"""A command's end: one line for what the system refuses, one word for Ctrl-C, none for a reader that went away."""

import subprocess
import sys

import pytest

from intvit.errors import report_errors


def ended(statement: str, capsys: pytest.CaptureFixture) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught, report_errors():
        exec(statement)
    return caught.value.code, capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert ended("open('/nowhere/x')", capsys) == (1, "error: /nowhere/x: No such file or directory\n")
    assert ended("import os; os.rename('/nowhere/x', '/nowhere/y')", capsys) == (
        1,
        "error: /nowhere/x -> /nowhere/y: No such file or directory\n",
    )
    assert ended("raise OSError(28, 'No space left on device')", capsys) == (1, "error: No space left on device\n")


def test_ctrl_c_is_one_word(capsys: pytest.CaptureFixture) -> None:
    assert ended("raise KeyboardInterrupt", capsys) == (130, "interrupted\n")


def test_mistakes_of_the_code_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), report_errors():
        raise ZeroDivisionError


def test_a_reader_that_goes_away_ends_the_program_without_a_word() -> None:
    script = "from intvit.errors import report_errors\nwith report_errors():\n    for _ in range(10**6): print('line')"
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout.readline() == b"line\n"
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait(60) == 141
