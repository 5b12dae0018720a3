"""The C interface without Python: the header, the example program, plan files."""

import subprocess
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
from tests.support.random_programs import images_for, random_program

EXAMPLE = Path(__file__).parents[3] / "examples" / "run_plan.c"
COMPILER = which("cc") or which("gcc") or which("clang")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]

pytestmark = pytest.mark.skipif(COMPILER is None or not PATHS, reason="no C compiler, or no native runtime")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as its head says, for the path `scalar`."""
    program = tmp_path_factory.mktemp("example") / "run_plan"
    folder, library = native_runtime.FOLDER, native_runtime.available()["scalar"]
    command = [COMPILER, *STRICT, "-I", folder, EXAMPLE, library, f"-Wl,-rpath,{folder}", "-o", program]
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


def test_equal_programs_give_equal_plan_files() -> None:
    assert plan_bytes(random_program(5)) == plan_bytes(random_program(5))
