"""Dense scores and labels of every runtime equal Python's big integers: all factors' edges, ties, many classes.

On every path of the native runtime, and in every form of ONNX.
"""

from pathlib import Path

import numpy as np
import pytest

from intvit.program import bounds, check
from intvit.runtime import load_runtime
from intvit.runtime.native.lowering import lower
from intvit.runtime.native.runtime import NativeRuntime
from intvit.runtime.onnx import save_onnx
from intvit.runtime.onnx.engine_check import check_engine
from intvit.runtime.onnx.model import Form
from tests.support import big_integers
from tests.support.native_paths import PATHS, needs_library
from tests.support.programs import dense_images, dense_program

ENDS = [("upsample", "argmax"), ("upsample",), ("argmax",)]
CASES = [(1, (1, 1), 2), (3, (1, 5), 4), (11, (1, 2), 16), (5, (4, 17), 8), (2, (2, 1), 256), (300, (1, 2), 2)]
RUNTIMES = ("torch", "numpy", "onnx", "native")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dense_outputs_equal_big_integers(case: tuple) -> None:
    for ends in ENDS:
        program = dense_program(*case, ends)
        check(program)
        bounds(program)
        images = dense_images(program, 1)
        if case[1][0] * case[1][1] * case[2] ** 2 * case[0] > 20_000:  # the reference runtime is enough
            expected = load_runtime(program, "numpy")(images)
        else:
            expected = np.array([list(big_integers.trace(program, image))[-1][1] for image in images], np.int32)
        for name in RUNTIMES:
            result = load_runtime(program, name)(images)
            assert result.dtype == np.int32
            assert np.array_equal(result, expected), (ends, name)


@needs_library
@pytest.mark.parametrize("path", PATHS)
def test_every_native_path_gives_equal_dense_outputs(path: str) -> None:
    for ends in ENDS:
        for case in [*CASES, (4, (3, 3), 32)]:
            program = dense_program(*case, ends)
            images = dense_images(program, 2)
            reference, expected = load_runtime(program, "numpy"), load_runtime(program, "numpy")(images)
            for threads in (1, 3):
                runtime = NativeRuntime(program, threads, path)
                assert np.array_equal(runtime(images), expected), (ends, case)
                assert np.array_equal(runtime(images[:1]), expected[:1]), (ends, case)  # shared by the threads
            for (name, value), (_, right) in zip(runtime.trace(images), reference.trace(images), strict=True):
                assert np.array_equal(value, right), (ends, case, name)


def test_native_stores_no_enlarged_score() -> None:
    program = dense_program(11, (18, 24), 16, ("upsample", "argmax"))
    plan = lower(program, fuse=True)
    labels = 4 * 18 * 24 * 16**2
    assert max(buffer.size for buffer in plan.buffers) == labels


@pytest.mark.parametrize("form", [Form(15, inline=True), Form(inline=True, int32=True)], ids=["opset 15", "int32"])
def test_every_form_of_onnx_gives_equal_dense_outputs(form: Form, tmp_path: Path) -> None:
    for ends in ENDS:
        program = dense_program(3, (1, 5), 4, ends)
        save_onnx(program, tmp_path / "model.onnx", form=form)
        checked = check_engine(program, tmp_path / "model.onnx", "onnxruntime", dense_images(program, 3), form=form)
        assert checked.mismatches == 0
