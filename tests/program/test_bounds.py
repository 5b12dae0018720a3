"""Bounds hold for every image that is tried, are tight where that can be computed, and refuse what may overflow."""

from dataclasses import replace
from math import isqrt

import numpy as np
import pytest

from intvit.program import Constant, Operator, ProgramError, Value, bounds
from intvit.program.interval_arithmetic import Range, RuleContext, bits_needed
from intvit.program.layernorm_intervals import normalized_exact
from intvit.runtime import load_runtime
from tests.support.programs import dense_program, linear_program, program_of
from tests.support.random_programs import images_for, random_program


@pytest.mark.parametrize("seed", range(80))
def test_every_traced_value_lies_inside_its_interval(seed: int) -> None:
    program = random_program(seed)
    result = bounds(program)
    for name, value in load_runtime(program, "numpy").trace(images_for(program, 12, seed)):
        output = result[name].output
        assert (value >= output.low).all(), name
        assert (value <= output.high).all(), name


@pytest.mark.parametrize("seed", range(10))
def test_images_that_push_an_accumulator_to_its_bound_stay_inside_and_reach_it(seed: int) -> None:
    program = random_program(seed)
    names = [operator.name for operator in program.operators]
    first = program.operators[names.index("patch_embed.proj")]
    weight = program.constants[first.constants["weight"]].array.astype(np.int64)
    gain = program.constants["patch_embed.input.multiplier"].array
    assert (gain > 0).all()
    channels, height, width = program.values["image"].shape
    patch = program.operators[names.index("patch_embed.patches")].attributes["patch"]
    row = (weight[0].reshape(channels, patch, patch) > 0).astype(np.uint8) * 255
    image = np.tile(row, (1, height // patch, width // patch))
    output = bounds(program)[first.name].output
    reached = dict(load_runtime(program, "numpy").trace(np.stack([image, 255 - image])))[first.name]
    assert reached[0, 0, 0] == output.high[..., 0].item()
    assert reached[1, 0, 0] == output.low[..., 0].item()


def test_an_accumulator_splits_its_weights_by_sign() -> None:
    # x in [-128, 127]: 3*127 + 2*128 = 637, -3*128 - 2*127 = -638, and the bias
    result = bounds(linear_program(np.array([[3, -2]]), 10))
    assert result["head"].intermediates["accumulator"] == Range(-638, 647, 32)
    assert result["head"].output.extremes() == (-628, 647)
    assert result["scores"].intermediates["product"] == Range(-628, 648)
    assert result["scores"].output.extremes() == (-314, 324)


def test_an_accumulator_that_may_leave_int32_is_refused() -> None:
    length = 2**31 // (127 * 128) - 64
    bounds(linear_program(np.full((1, length), 127), 0))
    message = r"operator 'head' \(linear\): accumulator may reach .*, which overflows int32; use fewer bits for"
    with pytest.raises(ProgramError, match=message):
        bounds(linear_program(np.full((1, length + 128), 127), 0))
    with pytest.raises(ProgramError, match=message):
        bounds(linear_program(np.full((1, 2), 127), 2**31 - 1))


def test_scores_that_may_saturate_are_refused() -> None:
    weight = np.full((2, 600), 127)
    bounds(linear_program(weight, 0, (440, 1)))
    message = r"operator 'scores' \(requantize\): scores may reach .* and saturate at 32 bits; raise the score scale"
    with pytest.raises(ProgramError, match=message):
        bounds(linear_program(weight, 0, (441, 1)))


def test_an_int64_overflow_is_refused_and_named() -> None:
    program = random_program(0)
    i = next(i for i, operator in enumerate(program.operators) if operator.op == "layernorm")
    operator = program.operators[i]
    size = program.values[operator.name].shape[-1]
    program.constants[operator.constants["bias"]] = Constant(np.full(size, 2**63 - 1), 64)
    with pytest.raises(ProgramError, match=r"'blocks.0.attn.norm' \(layernorm\): product may reach .* overflows int64"):
        bounds(program)


def test_probabilities_are_bounded_by_their_row_sum() -> None:
    # 40,000 probabilities of 16 bits: entry by entry the sum with int8 values would need 49 bits, by rows 24
    tokens = 40_000
    identity = {"multiplier": "one", "shift": "shift"}
    constants = {
        "m": Constant(np.array([2]), 32),
        "b": Constant(np.array([-256]), 64),
        "table": Constant(np.array([2**15] * 256), 31, False),
        "one": Constant(np.array([1]), 32),
        "shift": Constant(np.array([1]), 8),
    }
    program = program_of(
        Operator("quantize_input", "x", ("image",), "x", {"bits": 8, "shift": 1}, {"multiplier": "m", "bias": "b"}),
        Operator(
            "softmax",
            "p",
            ("x",),
            "p",
            {"kind": "table", "bits": 16, "normalization": "rounded"},
            {"table": "table"},
        ),
        Operator("matmul", "sum", ("p", "x"), "sum", {"transpose_b": True}),
        Operator("reshape", "flat", ("sum",), "flat", {"shape": (1,)}),
        Operator("requantize", "scores", ("flat",), "scores", {"bits": 32, "signed": True}, identity),
        constants=constants,
        shape=(1, 1, tokens),
    )
    accumulator = bounds(program)["sum"].accumulator
    row = 2**16 + tokens // 2  # rounding adds at most a half to each
    assert accumulator == Range(-128 * (row - 1), 127 * (row - 1), 32)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_the_exact_layernorm_bound_covers_its_worst_rows(size: int) -> None:
    operator = Operator("layernorm", "y", ("x",), "y", {"method": "exact"})
    value = Value((size,), 8, True)
    low, high = np.full(size, -128, object), np.full(size, 127, object)
    largest, _ = normalized_exact(RuleContext(operator, [(size,)], [value], value, False), low, high)
    worst = 0
    rng = np.random.default_rng(size)
    rows = [[1] + [0] * (size - 1), [127] + [-128] * (size - 1), *rng.integers(-2, 3, (200, size)).tolist()]
    for row in rows:
        root = isqrt(size * sum(v * v for v in row) - sum(row) ** 2)
        if root:
            worst = max(worst, *(abs(size * v - sum(row)) * (2**40 // root) for v in row))
    assert worst <= largest
    assert largest <= 2 * worst or size == 1


def test_bits_needed_is_the_smallest_signed_width() -> None:
    assert [bits_needed(-128, 127), bits_needed(-129, 0), bits_needed(0, 128), bits_needed(0, 0)] == [8, 9, 9, 1]


def test_bounds_of_a_changed_program_change() -> None:
    program = random_program(1)
    before = bounds(program)["head"].output.extremes()
    name = program.operators[-2].constants["bias"]
    program.constants[name] = replace(program.constants[name], array=program.constants[name].array + 1000)
    after = bounds(program)["head"].output.extremes()
    assert after == (before[0] + 1000, before[1] + 1000)


@pytest.mark.parametrize("factor", [2, 16, 256])
def test_the_bound_of_upsample_is_reached_and_one_more_is_refused(factor: int) -> None:
    program = dense_program(2, (2, 2), factor, ("upsample",))
    found = bounds(program)["upsample"]
    images = np.stack([np.full((2, 2, 2), value, np.uint8) for value in (0, 255)])
    traced = load_runtime(program, "numpy")(images)
    assert (traced.min(), traced.max()) == found.output.extremes()
    gain, multiplier = 4 * factor**2, int(program.constants["r"].array[0]) // 2
    assert found.intermediates["sum"] == Range(-128 * multiplier * gain, 127 * multiplier * gain, 32)
    most = 2**31 // gain // 128  # the largest multiplier with -128 * multiplier * gain >= -2^31
    program.constants["r"] = Constant(np.array([2 * most]), 32)
    bounds(program)
    program.constants["r"] = Constant(np.array([2 * (most + 1)]), 32)
    with pytest.raises(ProgramError, match=r"operator 'upsample' \(upsample\): sum may reach .* overflows int32"):
        bounds(program)


def test_scores_before_upsample_must_not_saturate() -> None:
    program = dense_program(2, (2, 2), 4, ("upsample", "argmax"))
    program.constants["r"] = Constant(np.array([2**31 - 1]), 32)
    with pytest.raises(ProgramError, match=r"operator 'scores' .*: scores may reach .* and saturate at 32 bits"):
        bounds(program)
