"""A command's end: one line for a user's error, a traceback for ours, one word for Ctrl-C, none for a lost reader."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from intvit.errors import report_errors, where_to_report

FAILING_COMMAND = "def main(arguments):\n    {}\n"
MISTAKES = {
    "a, b = [1, 2, 3]": "ValueError: too many values to unpack (expected 2",
    "list(zip([1], [], strict=True))": "ValueError: zip() argument 2 is shorter than argument 1",
    "int('x')": "ValueError: invalid literal for int() with base 10: 'x'",
    "{}['x']": "KeyError: 'x'",
    "raise TimeoutError": "TimeoutError",
    "raise OSError('short')": "OSError: short",
    "raise ConnectionResetError(104, 'Connection reset by peer')": "ConnectionResetError: [Errno 104]",
}


def run_failing_command(statement: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`intvit check` in another process, its module replaced by one of this package's name that fails."""
    (folder / "failing.py").write_text(FAILING_COMMAND.format(statement))
    script = (
        "import sys, importlib.util, intvit.commands as commands\n"
        "spec = importlib.util.spec_from_file_location('intvit.commands.check', sys.argv[1])\n"
        "sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "sys.exit(commands.main(['check']))"
    )
    command = [sys.executable, "-c", script, str(folder / "failing.py")]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize("statement", MISTAKES)
def test_a_mistake_inside_a_command_keeps_its_traceback_and_says_where_to_report_it(
    statement: str, tmp_path: Path
) -> None:
    done = run_failing_command(statement, tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2].startswith(MISTAKES[statement])
    assert lines[-1] == where_to_report()
    assert done.stderr.count(where_to_report()) == 1


def test_the_place_to_report_is_the_one_of_pyproject() -> None:
    urls = metadata.metadata("intvit").get_all("Project-URL") or []
    if not urls:
        pytest.skip("the installed package was built before pyproject.toml named its URLs; install it again")
    assert where_to_report().endswith("with these lines at https://github.com/intvit/intvit/issues")


def test_a_user_s_error_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = run_failing_command("from intvit.errors import IntVitError; raise IntVitError('a\\n  b')", tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: a b\n")


def test_full_error_lets_everything_pass_as_it_was_raised(tmp_path: Path) -> None:
    statement = "from intvit.errors import IntVitError; raise IntVitError('a')"
    for text, last in ((statement, "IntVitError: a"), ("raise OSError(5, 'no', 'x')", "OSError: [Errno 5] no: 'x'")):
        done = run_failing_command(text, tmp_path, HYDRA_FULL_ERROR="1")
        assert done.stderr.startswith("Traceback")
        assert done.stderr.splitlines()[-1].endswith(last)
    with pytest.raises(BrokenPipeError), report_errors(show_traceback=True):
        raise BrokenPipeError
    with pytest.raises(KeyboardInterrupt), report_errors(show_traceback=True):
        raise KeyboardInterrupt


def test_a_broken_pipe_that_is_not_standard_output_s_is_a_mistake() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError) as caught, report_errors():
        os.write(writing, b"x")
    os.close(writing)
    assert caught.value.__notes__ == [where_to_report()]


def test_every_error_of_the_package_can_be_put_right_by_the_user() -> None:
    """No other class of exceptions is defined here, so that none of them is one that a user sees as a traceback."""
    import intvit

    source = Path(intvit.__file__).parent
    bases = [
        line.strip()
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("class ") and line.rstrip().endswith(("Exception):", "(ValueError):", "(RuntimeError):"))
    ]
    assert bases == ["class IntVitError(ValueError):"]


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


@pytest.mark.parametrize(("package", "extra"), [("pydantic", "train"), ("optuna", "sweep"), ("onnx", "onnx")])
def test_a_package_that_is_not_installed_is_one_line_with_the_extra_that_brings_it(package: str, extra: str) -> None:
    uses = {
        "pydantic": "intvit.commands.main(['shards', 'info', 'DIR'])",
        "optuna": "intvit.commands.main(['sweep', 'NAME'])",
        "onnx": "intvit.commands.main(['export', 'onnx', 'FOLDER', 'model.onnx'])",
    }
    script = f"""
import importlib.util, sys
find = importlib.util.find_spec
class Without:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)
import intvit.commands, intvit.errors
intvit.errors.find_spec = importlib.util.find_spec
{uses[package]}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"pip install 'intvit[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
