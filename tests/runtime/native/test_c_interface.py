"""The C interface without Python: the header, the example program, plan files."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from intvit.commands import main
from intvit.program import save_checkpoint
from intvit.runtime import load_runtime
from intvit.runtime.native import runtime as native_runtime
from intvit.runtime.native.plan_file import plan_bytes
from tests.support.native_paths import PATHS
from tests.support.programs import dense_images, dense_program
from tests.support.random_programs import images_for, random_program

TOP = Path(__file__).parents[3]
EXAMPLE, CPP = TOP / "examples" / "run_plan.c", TOP / "tests" / "support" / "native_interface.cpp"
COMPILER, CPP_COMPILER = which("cc") or which("gcc") or which("clang"), which("c++") or which("g++") or which("clang++")
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]

pytestmark = pytest.mark.skipif(COMPILER is None or not PATHS, reason="no C compiler, or no native runtime")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as its head says, for the path `scalar`."""
    return compiled(tmp_path_factory.mktemp("example") / "run_plan", COMPILER, "-std=c99", EXAMPLE)


def compiled(program: Path, *words: object) -> Path:
    folder, library = native_runtime.FOLDER, native_runtime.available()["scalar"]
    command = [*words, *STRICT, "-I", folder, library, f"-Wl,-rpath,{folder}", "-pthread", "-o", program]
    subprocess.run([str(word) for word in command], check=True)
    return program


def run(example: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in (example, *words)], capture_output=True, text=True)


@pytest.mark.parametrize("seed", [1, 2, 8])
def test_the_example_prints_the_scores_of_python(example: Path, tmp_path: Path, seed: int) -> None:
    program = random_program(seed)
    images = images_for(program, 3, seed)
    save_checkpoint(program, tmp_path / "integer")
    assert main(["export", "plan", str(tmp_path / "integer"), str(tmp_path / "model.plan")]) == 0
    (tmp_path / "images.raw").write_bytes(images.tobytes())
    done = run(example, tmp_path / "model.plan", tmp_path / "images.raw", 1 + seed % 2)
    assert done.returncode == 0, done.stderr
    scores = np.array([[int(score) for score in line.split()] for line in done.stdout.splitlines()])
    assert np.array_equal(scores, load_runtime(program, "numpy")(images))
    assert np.array_equal(scores, load_runtime(program, "native")(images))


@pytest.mark.parametrize(
    ("damage", "threads", "message"),
    [
        (lambda plan: b"", 1, "no plan file: too short"),
        (lambda plan: b"something" + plan[9:], 1, "no plan file of `intvit export plan`"),
        (lambda plan: plan[:8] + b"\x63" + plan[9:], 1, "another version of intvit: export it again"),
        (lambda plan: plan[:5000], 1, "ends early"),
        (lambda plan: plan[:-1], 1, "ends early"),
        (lambda plan: plan, 0, "the number of threads is outside 1..1024"),
    ],
)
def test_what_is_wrong_with_a_plan_file_is_said(
    example: Path, tmp_path: Path, damage: object, threads: int, message: str
) -> None:
    assert callable(damage)
    (tmp_path / "model.plan").write_bytes(damage(plan_bytes(random_program(1))))
    (tmp_path / "images.raw").write_bytes(b"")
    done = run(example, tmp_path / "model.plan", tmp_path / "images.raw", threads)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'model.plan'}: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_images_that_are_not_whole_are_refused(example: Path, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(plan_bytes(random_program(1)))
    (tmp_path / "images.raw").write_bytes(images_for(random_program(1), 2).tobytes()[:-1])
    done = run(example, tmp_path / "model.plan", tmp_path / "images.raw", 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not whole images" in done.stderr


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CPP_COMPILER is None:
        pytest.skip("no C++ compiler")
    return compiled(tmp_path_factory.mktemp("cpp") / "native_interface", CPP_COMPILER, "-std=c++17", CPP)


@pytest.mark.parametrize("dense", [False, True], ids=["scores", "labels"])
def test_wrong_arguments_and_missing_memory_are_errors_in_a_cpp_program(cpp: Path, tmp_path: Path, dense: bool) -> None:
    program = dense_program(11, (3, 4), 16, ("upsample", "argmax")) if dense else random_program(3)
    (tmp_path / "model.plan").write_bytes(plan_bytes(program))
    (tmp_path / "images.raw").write_bytes((dense_images(program, 4) if dense else images_for(program, 4)).tobytes())
    done = run(cpp, tmp_path / "model.plan", tmp_path / "images.raw")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "no plan: no plan file: too short",
        "no engine: no engine: a null pointer",
        "no images: no images or no room for scores: a null pointer",
        "no room: no images or no room for scores: a null pointer",
        "batch -1: a negative number of images",
        "batch 0: no error",
        "tiny: no ",  # with its zero
        "silent: yes",
        "odd address: equal",
        "two engines, four threads: 0 wrong",
        "no memory: not enough memory",
        "no memory: the system gives only 1 of 3 threads; use fewer",
        "no memory: the system gives only 2 of 3 threads; use fewer",
    ]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc's loader")
def test_no_path_runs_the_code_of_another() -> None:
    libraries = [str(file) for file in native_runtime.available().values()]
    load = "import ctypes, sys\nfor file in sys.argv[1:]: ctypes.CDLL(file, ctypes.RTLD_GLOBAL)"
    command = [sys.executable, "-c", load, *libraries]
    done = subprocess.run(
        command, env=os.environ | {"LD_DEBUG": "bindings"}, capture_output=True, text=True, check=True
    )
    bound = [re.search(r"binding file (\S+) .* to (\S+) .*symbol `(\w+)'", line) for line in done.stderr.splitlines()]
    pairs = [match.groups() for match in bound if match and {match[1], match[2]} <= set(libraries)]
    others = [pair for pair in pairs if pair[0] != pair[1] and "digits" not in pair[2]]  # a table of libstdc++
    assert pairs
    assert not others


def test_equal_programs_give_equal_plan_files() -> None:
    assert plan_bytes(random_program(5)) == plan_bytes(random_program(5))
