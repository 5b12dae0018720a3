"""What an installed wheel must do, with numpy, Pillow and safetensors alone and no compiler. Run outside of a checkout.

python .ci/check_wheel.py: prints what it found; the exit code is 1 where a promise does not hold.
"""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

began = time.perf_counter()
import intvit  # noqa: E402

seconds = time.perf_counter() - began
from intvit.program import Constant, Operator, Program, Value, save_checkpoint  # noqa: E402
from intvit.runtime.native import runtime as native  # noqa: E402

package = Path(intvit.__file__).parent
compiled = native.available()
assert package.parent.name != "src", "this is a checkout; run it where the wheel is installed"
assert "scalar" in compiled, compiled
assert len(compiled) >= 2, f"no path of this processor's instructions: {compiled}"
assert (package / "conf" / "train.yaml").is_file(), "no presets"
assert (package / "py.typed").is_file()
assert not (package.parent / "tests").exists(), "tests are installed"
assert find_spec("torch") is None, "torch came along: inference needs none"

# A program of one linear layer: the smallest that every path of the native runtime executes in its own way.
random = np.random.default_rng(0)
weight, bias = random.integers(-128, 128, (10, 48)).astype(np.int8), random.integers(-999, 999, 10).astype(np.int32)
constants = {
    "m": Constant(np.full(3, 2**30, np.int64), 32, True),
    "b": Constant(np.full(3, -(64 << 31), np.int64), 64, True),
    "w": Constant(weight, 8, True),
    "c": Constant(bias, 32, True),
}
operators = [
    Operator("quantize_input", "x", ("image",), "x", {"shift": 31, "bits": 8}, {"multiplier": "m", "bias": "b"}),
    Operator("reshape", "row", ("x",), "row", {"shape": (48,)}),
    Operator("linear", "scores", ("row",), "scores", {}, {"weight": "w", "bias": "c"}),
]
values = {
    "image": Value((3, 4, 4), 8, False),
    "x": Value((3, 4, 4), 8, True),
    "row": Value((48,), 8, True),
    "scores": Value((10,), 32, True),
}
program = Program("image", "scores", values, constants, operators)
images = random.integers(0, 256, (5, 3, 4, 4)).astype(np.uint8)
expected = intvit.load(program, "numpy")(images)
for path in native.supported():
    assert np.array_equal(intvit.load(program, "native", path=path)(images), expected), path

save_checkpoint(program, "integer")
np.save("image.npy", images[0])
command = [sys.executable, "-m", "intvit.commands"]
ran = subprocess.run([*command, "run", "integer", "image.npy"], capture_output=True, text=True)
assert ran.returncode == 0, ran.stderr
assert str(expected[0].max()) in ran.stdout, ran.stdout
for needs in (["sweep", "name"], ["models"], ["bench", "step"], ["export", "onnx", "integer", "x.onnx"]):
    ran = subprocess.run([*command, *needs], capture_output=True, text=True)
    assert ran.returncode == 1, (needs, ran.stderr)
    assert len(ran.stderr.splitlines()) == 1, (needs, ran.stderr)
    assert "pip install 'intvit[" in ran.stderr, (needs, ran.stderr)
subprocess.run([*command, "doctor"], check=True)
print(f"{package}: compiled {', '.join(compiled)}; equal on {', '.join(native.supported())}; import {seconds:.2f} s")
