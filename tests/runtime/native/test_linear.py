"""The linear layer of the native runtime alone: rows, columns and depths around the sizes of tiles and vectors."""

from itertools import product

import numpy as np
import pytest

from intvit.runtime.native.lowering import ADDED, REQUANTIZED
from intvit.runtime.native.runtime import Engine, load_library
from intvit.runtime.native.steps import Kind, Step
from intvit.runtime.plan import ExecutionPlan
from tests.support.native_paths import PATHS, needs_library

ROWS, COLUMNS = (1, 6, 17, 37), (1, 16, 33, 130)
DEPTHS = (1, 3, 48, 64, 65, 200, 1600)  # 1600: more steps along the depth than a tile has rows to finish beside them


def assert_exact(
    path: str, rows: int, columns: int, depth: int, bits: int, added: bool, *, clamped: bool = False
) -> None:
    """uint8 rows times a weight, requantized or added to int16, against int64 arithmetic."""
    rng = np.random.default_rng([rows, columns, depth, bits])
    x = rng.integers(0, 256, (2, rows, depth)).astype(np.uint8)
    weight = rng.integers(-128, 128, (columns, depth)).astype(np.int8)
    bias = rng.integers(-(2**12), 2**12, columns).astype(np.int32)
    residual = rng.integers(-(2**15), 2**15, (rows, columns)).astype(np.int16)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    shift = rng.integers(1 if clamped else 40, 47, columns)
    most = 2.0 ** (bits - 1) / (depth**0.5 * 2**14) * 2.0**shift
    multiplier = (rng.uniform(-1, 1, columns) * most.clip(max=2**31 - 1)).astype(np.int64)
    other = rng.integers(-(2**30), 2**30, columns)

    plan = ExecutionPlan()
    image = plan.tensor((rows, depth), np.dtype(np.uint8))
    inputs, constants = [image], [weight, bias, multiplier, other if added else None, shift]
    if added:
        inputs.append(plan.constant(residual))
    values = plan.tensor((rows, columns), np.dtype(f"int{bits}"))
    plan.steps.append(Step(Kind.LINEAR, inputs, values, [ADDED if added else REQUANTIZED, low, high], constants))
    scores = plan.tensor((rows * columns,), np.dtype(np.int32))
    flat, size = values.seen_as(values.entries.reshape(-1)), rows * columns
    same = [np.full(size, 2), None, np.full(size, 1)]  # (2 x + 1) >> 1
    plan.steps.append(Step(Kind.REQUANTIZE, [flat], scores, [-(2**31), 2**31 - 1], same))
    plan.input, plan.output = image.buffer, scores.buffer
    plan.place(share=False)

    sums = (x.astype(np.int64) @ weight.T.astype(np.int64) + bias) * multiplier
    sums += residual * other if added else 0
    expected = ((sums + (1 << (shift - 1))) >> shift).clip(low, high)
    for threads in (1, 3):
        result = Engine(load_library(path), plan, threads).run(x)
        assert np.array_equal(result, expected.reshape(2, -1)), f"{path}: {rows} x {depth} x {columns}, {bits} bits"


def assert_every_shape_is_exact(path: str) -> None:
    for rows, columns, depth in product(ROWS, COLUMNS, DEPTHS):
        for bits, added in ((8, False), (8, True), (16, True)):
            assert_exact(path, rows, columns, depth, bits, added)
    for bits in (8, 16):
        assert_exact(path, 17, 130, 64, bits, False, clamped=True)


@needs_library
@pytest.mark.parametrize("path", PATHS)
def test_every_shape(path: str) -> None:
    assert_every_shape_is_exact(path)


@pytest.mark.xdist_group("emulated_amx")
def test_every_shape_with_emulated_amx_tiles(emulated_amx: str) -> None:
    assert_every_shape_is_exact(emulated_amx)
