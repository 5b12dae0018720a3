"""Dense scores and labels of every runtime equal Python's big integers: all factors' edges, ties, many classes."""

import numpy as np
import pytest

from intvit.program import bounds, check
from intvit.runtime import load_runtime
from tests.support import big_integers
from tests.support.programs import dense_images, dense_program

ENDS = [("upsample", "argmax"), ("upsample",), ("argmax",)]
CASES = [(1, (1, 1), 2), (3, (1, 5), 4), (11, (3, 2), 16), (5, (4, 17), 8), (2, (2, 1), 256), (300, (2, 3), 2)]
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
