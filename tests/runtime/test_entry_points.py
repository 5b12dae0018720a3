"""A package that is installed beside IntViT brings a runtime, without a change here."""

import subprocess
import sys
from pathlib import Path

from intvit.program import save_checkpoint
from tests.support.random_programs import random_program

MODULE = """
from intvit.runtime.numpy import NumpyRuntime

class Twice(NumpyRuntime):
    def __call__(self, images):
        return 2 * super().__call__(images)
"""
SCRIPT = """
import sys
import numpy as np
from intvit.runtime import RUNTIMES, load

runtime, numpy = load(sys.argv[1], "twice"), load(sys.argv[1], "numpy")
images = np.zeros((1, *numpy.program.values["image"].shape), np.uint8)
assert (runtime(images) == 2 * numpy(images)).all()
assert RUNTIMES["numpy"] == "intvit.runtime.numpy:NumpyRuntime"
"""


def test_an_installed_package_brings_a_runtime_and_takes_none_of_our_names(tmp_path: Path) -> None:
    (tmp_path / "twice_runtime.py").write_text(MODULE)
    information = tmp_path / "twice_runtime-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: twice-runtime\nVersion: 1.0\n")
    points = "[intvit.runtime]\ntwice = twice_runtime:Twice\nnumpy = twice_runtime:Twice\n"
    (information / "entry_points.txt").write_text(points)
    save_checkpoint(random_program(1), tmp_path / "integer")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "integer"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
