"""The range certificate is sound: a search for counterexamples, from images and inside single operators."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from intvit.program import Operator, OperatorBounds, Program, bounds
from intvit.program.interval_arithmetic import Interval
from intvit.runtime import load_runtime
from intvit.runtime.numpy import OPERATORS, OperatorContext
from tests.support.intermediates import intermediates
from tests.support.random_programs import images_for, random_program
from tests.support.real_deit import real_deit

ROW_OPERATORS = ("layernorm", "softmax", "exponential", "gelu", "requantize")


def violations(operator: Operator, entry: OperatorBounds, inputs: list[np.ndarray], constants: dict) -> Iterator[str]:
    """Intermediates outside their certified range, and names that the certificate lacks."""
    for name, value in intermediates(operator, inputs, constants).items():
        proven = entry.intermediates.get(name)
        if proven is None:
            yield f"{operator}: {name} is not certified"
        elif value.min() < proven.low or value.max() > proven.high:
            yield f"{operator}: {name} {value.min()}..{value.max()} outside {proven}"


@pytest.mark.parametrize("seed", range(24))
def test_every_intermediate_of_every_image_lies_in_its_certified_range(seed: int) -> None:
    program = random_program(seed)
    proven = bounds(program)
    for image in images_for(program, 6, seed):
        values = {program.input: image.astype(object)}
        for name, value in load_runtime(program, "numpy").trace(image[None]):
            values[name] = value[0].astype(object)
        for operator in program.operators:
            inputs = [values[name] for name in operator.inputs]
            found = list(violations(operator, proven[operator.name], inputs, program.constants_of(operator)))
            assert found == []


def extreme_rows(interval: Interval, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows [n, C] inside the interval: ends of every channel, one channel against all others, two-valued, random."""
    joined = interval.channels()
    low, high = (np.broadcast_to(bound.reshape(-1), shape[-1]) for bound in (joined.low, joined.high))
    size = shape[-1]
    rows = [low, high, np.where(np.arange(size) % 2, low, high)]
    for c in rng.permutation(size)[:8]:
        one = np.arange(size) == c
        rows += [np.where(one, high, low), np.where(one, low, high)]
        middle = np.clip(0, low, high)
        rows += [np.where(one, np.clip(1, low, high), middle), np.where(one, high, middle)]
    rows += [np.where(rng.integers(0, 2, size), low, high) for _ in range(8)]
    rows += [rng.integers(low, high + 1) for _ in range(8)]
    return np.stack(rows)


@pytest.mark.parametrize("seed", range(40))
def test_extreme_rows_of_a_single_operator_stay_in_its_certified_range(seed: int) -> None:
    """Inputs that no image may give, but the input's interval allows: the rules themselves are tried."""
    program, rng = random_program(seed), np.random.default_rng(seed)
    proven = bounds(program)
    for operator in program.operators:
        if operator.op not in ROW_OPERATORS or "mask" in operator.constants:
            continue
        before = proven[operator.inputs[0]].output
        rows = extreme_rows(before, program.values[operator.inputs[0]].shape, rng).astype(object)
        assert list(violations(operator, proven[operator.name], [rows], program.constants_of(operator))) == []


def normalized_pairs(program: Program) -> Iterator[tuple[Operator, Operator]]:
    """LayerNorms and the linear operators that read them directly."""
    by_name = {operator.name: operator for operator in program.operators}
    for operator in program.operators:
        source = by_name.get(operator.inputs[0]) if operator.op == "linear" else None
        if source is not None and source.op == "layernorm":
            yield source, operator


def layernorm_outputs(program: Program, norm: Operator, rows: np.ndarray) -> np.ndarray:
    """The reference runtime's LayerNorm of rows [n, C]."""
    return OPERATORS["layernorm"](OperatorContext(program, norm))(rows[None])[0]


def aligned_rows(program: Program, norm: Operator, weight: np.ndarray, before: Interval) -> np.ndarray:
    """Rows [n, C] that push w . layernorm(x) furthest for rows w of a weight: x ~ w * gamma at many sizes, signs."""
    constants, size = program.constants_of(norm), weight.shape[-1]
    joined = before.channels()
    low, high = (np.broadcast_to(bound.reshape(-1), size) for bound in (joined.low, joined.high))
    gain = constants["multiplier"] * 2.0 ** -constants["shift"].astype(float)
    factor = 2.0 ** constants.get("channel_shift", np.zeros(size))
    candidates = []
    for w in weight.astype(float):
        direction = w * gain / factor
        direction /= max(np.abs(direction).max(), 1e-9)
        for scale in (1, 3, 20, 100, 3000, 30000):
            candidates += [scale * direction, -scale * direction, scale * np.sign(direction)]
    return np.stack([np.clip(np.rint(c), low, high) for c in candidates]).astype(np.int64)


@pytest.mark.parametrize("seed", range(60))
def test_rows_aligned_with_a_weight_do_not_break_the_bound_of_sums_after_layernorm(seed: int) -> None:
    program, rng = random_program(seed), np.random.default_rng(seed)
    proven = bounds(program)
    for norm, linear in normalized_pairs(program):
        before, constants = proven[norm.inputs[0]].output, program.constants_of(linear)
        rows = aligned_rows(program, norm, constants["weight"], before)
        rows = np.concatenate([rows, extreme_rows(before, program.values[norm.name].shape, rng)])
        outputs = layernorm_outputs(program, norm, rows).astype(object)
        assert list(violations(linear, proven[linear.name], [outputs], constants)) == []


@pytest.mark.parametrize(("preset", "near"), [("ivit8", 0.5), ("lut8_true8", 0.8)])
def test_the_real_deit_is_certified_for_24_bits_and_aligned_rows_come_near_but_not_beyond(
    preset: str, near: float, test_data: Path, capsys: pytest.CaptureFixture
) -> None:
    program = real_deit(preset, test_data)
    proven, nearest, tried = bounds(program), 0.0, 0
    assert max(entry.accumulator.bits for entry in proven.values() if entry.accumulator) <= 24
    for norm, linear in normalized_pairs(program):
        weight, bias = (program.constants_of(linear)[role].astype(np.int64) for role in ("weight", "bias"))
        output = proven[linear.name].output
        channels = np.random.default_rng(tried).permutation(len(weight))[:40]
        rows = aligned_rows(program, norm, weight[channels], proven[norm.inputs[0]].output)
        sums = layernorm_outputs(program, norm, rows).astype(np.int64) @ weight.T
        low, high = ((bound.reshape(-1) - bias) for bound in (output.low, output.high))
        assert (sums >= low).all()
        assert (sums <= high).all()
        nearest, tried = max(nearest, float((sums.max(0) / high).max())), tried + sums.size
    with capsys.disabled():
        print(f"\n{preset}: {tried:,} sums after LayerNorm on adversarial rows, at most {nearest:.0%} of their bound")
    assert nearest > near


@pytest.mark.parametrize("seed", range(6))
def test_climbing_images_do_not_leave_the_certified_outputs(seed: int) -> None:
    """From the image that drives an accumulator's channel furthest, change a patch at a time and keep what drives it
    further."""
    program, rng = random_program(seed), np.random.default_rng(seed)
    proven, runtime = bounds(program), load_runtime(program, "numpy")
    sums = [operator.name for operator in program.operators if operator.op in ("linear", "matmul")]
    for name in rng.permutation(sums)[:4]:
        output = proven[name].output
        images = images_for(program, 8, seed)
        for _ in range(12):
            value = dict(runtime.trace(images))[name]
            assert (value >= output.low).all()
            assert (value <= output.high).all()
            best = images[int(value.reshape(len(images), -1).max(1).argmax())]
            changed = np.where(rng.random((7, *best.shape)) < 0.2, rng.choice([0, 255], (7, *best.shape)), best)
            images = np.concatenate([best[None], changed.astype(np.uint8)])
