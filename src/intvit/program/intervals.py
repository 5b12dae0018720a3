"""Interval rules: from the intervals of an operator's inputs to those of its intermediates and output.

Each rule holds for every integer input inside the intervals. Intervals are kept per channel (last axis; for images the
first) where that is cheap and joined over the other axes. Products are computed in Python integers, so that a rule
sees an overflow instead of suffering it. bounds.py uses `RULES[op]`; the arithmetic is that of docs/program-format.md.
"""

from collections.abc import Callable
from math import prod

import numpy as np

from intvit.program.functions import exponent, extremes, gelu_before_shift
from intvit.program.interval_arithmetic import Interval, RuleContext, product, rounding_shift
from intvit.program.layernorm_intervals import layernorm

# A small file may declare large tensors: entries up to which an interval is spread out, joined beyond.
_EXPANDED = 2**21  # over its tensor, to move it
_PRODUCTS = 2**17  # as Python integers
_SPREAD = 2**10  # of each operand of a matmul


def _quantize_input(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    multiplier, bias = (constants[key].astype(object).reshape(-1, 1, 1) for key in ("multiplier", "bias"))
    low, high = product(inputs[0].low, inputs[0].high, multiplier)
    return rounding_shift(context, "product", low + bias, high + bias, context.operator.attributes["shift"])


def _constant(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    value = constants["value"].astype(np.int64)
    return Interval(value, value).channels()


def _concat(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    axis = context.operator.attributes["axis"]
    if prod(context.output.shape) > _EXPANDED:
        ends, shape = np.array([interval.extremes() for interval in inputs]), (1,) * len(context.output.shape)
        return Interval(ends.min().reshape(shape), ends.max().reshape(shape))
    full = [
        [np.broadcast_to(b, shape) for b in (i.low, i.high)] for i, shape in zip(inputs, context.shapes, strict=True)
    ]
    low, high = (np.concatenate(parts, axis) for parts in zip(*full, strict=True))
    return Interval(low, high).channels()


Rule = Callable[[RuleContext, list[Interval], dict[str, np.ndarray]], Interval]


def _move(rearrange: Callable[[RuleContext, np.ndarray], np.ndarray]) -> Rule:
    """A rule for data movement: move the bounds like the data, then keep one entry along axes where all are equal.

    Rows that stay whole stay in their ball.
    """

    def rule(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
        before = inputs[0].at_most(_EXPANDED, context.shapes[0])
        if before.low.size == 1:
            ones = (1,) * len(context.output.shape)
            ball = before.ball if _keeps_rows(context) else None
            return Interval(before.low.reshape(ones), before.high.reshape(ones), ball=ball)
        moved = [rearrange(context, np.broadcast_to(b, context.shapes[0])) for b in (before.low, before.high)]
        for axis in range(moved[0].ndim):
            first = [bound.take([0], axis) for bound in moved]
            if all((bound == start).all() for bound, start in zip(moved, first, strict=True)):
                moved = first
        return Interval(moved[0], moved[1], ball=inputs[0].ball if _keeps_rows(context) else None)

    return rule


def _keeps_rows(context: RuleContext) -> bool:
    """Is each row (last axis) of the output a row of the input, in the same order of channels?"""
    op, attributes = context.operator.op, context.operator.attributes
    before, after = context.shapes[0], context.output
    if op == "transpose":
        return bool(attributes["axes"][-1] == len(before) - 1)
    if op in ("slice", "gather"):
        return bool(attributes["axis"] < len(before) - 1)
    return op == "reshape" and before[-1] == after.shape[-1]


def _patches(context: RuleContext, bound: np.ndarray) -> np.ndarray:
    size, (channels, height, width) = context.operator.attributes["patch"], bound.shape
    tiles = bound.reshape(channels, height // size, size, width // size, size)
    return tiles.transpose(1, 3, 0, 2, 4).reshape(-1, channels * size * size)


def _slice(context: RuleContext, bound: np.ndarray) -> np.ndarray:
    axis, start, stop = (context.operator.attributes[key] for key in ("axis", "start", "stop"))
    return bound.take(range(start, stop), axis)


def _gather(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    axis, index = context.operator.attributes["axis"], constants["index"].astype(np.int64)

    result = _move(lambda _, bound: bound.take(np.maximum(index, 0), axis))(context, inputs, constants)
    if index.min() >= 0:
        return result
    return Interval(np.minimum(result.low, 0), np.maximum(result.high, 0))  # rows of zeros may lie outside the ball


_SHORTER_ROWS = "use fewer bits for the operands or shorter rows"


def _linear(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    x = inputs[0].channels()
    size = context.shapes[0][-1]
    x_low, x_high = (np.broadcast_to(bound.reshape(-1), size).astype(np.float64) for bound in (x.low, x.high))
    weight, bias = constants["weight"].astype(np.float64), constants["bias"].astype(np.int64)
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)  # float64: sums stay far below 2^53

    def interval(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return positive @ low + negative @ high, positive @ high + negative @ low

    least, most = interval(np.minimum(x_low, 0), np.maximum(x_high, 0))  # partial sums, whatever the order
    low, high = interval(x_low, x_high)
    if x.ball is not None:
        negatives, positives, reach = x.ball.sums(weight)
        least, most = np.maximum(least, np.floor(negatives - reach)), np.minimum(most, np.ceil(positives + reach))
        middle = negatives + positives
        low, high = np.maximum(low, np.floor(middle - reach)), np.minimum(high, np.ceil(middle + reach))
    least, most, low, high = (bound.astype(np.int64) for bound in (least, most, low, high))
    context.note("accumulator", least + np.minimum(bias, 0), most + np.maximum(bias, 0), 32, _SHORTER_ROWS)
    shape = (1,) * (len(context.shapes[0]) - 1) + (-1,)
    return Interval((low + bias).reshape(shape), (high + bias).reshape(shape))


def _matmul(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    a, b = inputs[0].at_most(_SPREAD), inputs[1].at_most(_SPREAD)
    inner = context.shapes[0][-1]
    turned = context.operator.attributes["transpose_b"]
    a_low, a_high = (
        np.swapaxes(bound, -1, -2) for bound in (a.low.min(-2, keepdims=True), a.high.max(-2, keepdims=True))
    )
    b_low, b_high = (np.swapaxes(bound, -1, -2) if turned else bound for bound in (b.low, b.high))
    corners = np.stack(np.broadcast_arrays(a_low * b_low, a_low * b_high, a_high * b_low, a_high * b_high))
    terms_low, terms_high = corners.min(0), corners.max(0)
    times = inner // terms_low.shape[-2]  # all terms alike are one
    least, most = times * np.minimum(terms_low, 0).sum(-2), times * np.maximum(terms_high, 0).sum(-2)
    low, high = times * terms_low.sum(-2), times * terms_high.sum(-2)
    if a.row_sum is not None:  # a >= 0 with a bounded row: at most row_sum times the extreme of b
        weakest, strongest = (
            a.row_sum * bound for bound in (np.minimum(b_low, 0).min(-2), np.maximum(b_high, 0).max(-2))
        )
        least, most = np.maximum(least, weakest), np.minimum(most, strongest)
        low, high = np.maximum(low, weakest), np.minimum(high, strongest)
    context.note("accumulator", least, most, 32, _SHORTER_ROWS)
    mean = (int(b_low.min()), int(b_high.max())) if a.low.min() >= 0 else None
    return Interval(low[..., None, :], high[..., None, :], mean=mean)


def _requantize(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    x = inputs[0].at_most(_PRODUCTS, constants["multiplier"].shape)
    low, high = product(x.low, x.high, constants["multiplier"])
    return rounding_shift(context, "product", low, high, constants["shift"])


def _add(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    shapes = inputs[0].low.shape, inputs[1].low.shape, constants["multiplier_a"].shape
    a, b = (interval.at_most(_PRODUCTS, *shapes) for interval in inputs)
    a_low, a_high = product(a.low, a.high, constants["multiplier_a"])
    b_low, b_high = product(b.low, b.high, constants["multiplier_b"])
    context.note("product a", a_low, a_high)
    context.note("product b", b_low, b_high)
    return rounding_shift(context, "sum of products", a_low + b_low, a_high + b_high, constants["shift"])


def _exponents(context: RuleContext, logits: Interval, constants: dict[str, np.ndarray]) -> np.ndarray:
    """E at every distance that two logits of the interval can have; it is noted."""
    low, high = logits.extremes()
    value, seen = exponent(context.operator.attributes, constants, np.arange(high - low + 1))
    for name, (smallest, largest) in seen.items():
        context.note(name, smallest, largest, remedy="use fewer fraction bits or shorter coefficients")
    context.note("exponential", *extremes(value))
    return value


def _softmax(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    attributes, row = context.operator.attributes, context.shapes[0][-1]
    bits = context.output.bits - context.output.signed
    value = _exponents(context, inputs[0], constants)
    smallest, largest = extremes(value)
    others = 0 if "mask" in constants else row - 1  # any number of them may be excluded
    least, most = int(value[0]) + others * smallest, int(value[0]) + (row - 1) * largest
    context.note("sum", least, most, 32, "lower n, u or the table's scale")
    rounded = attributes["normalization"] == "rounded"
    numerator, shift = (2**46 - 1, 46 - bits) if rounded else (2**31 - 1, 31 - bits)
    half = 1 << (shift - 1) if rounded else 0
    context.note("reciprocal", numerator // most, numerator // least)
    context.note("product", 0, min(largest * (numerator // least), numerator) + half)
    shape = (1,) * len(context.shapes[0])
    top = np.full(shape, (1 << bits) - 1, np.int64)
    return Interval(np.zeros(shape, np.int64), top, row_sum=(numerator + row * half) >> shift)


def _exponential(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    attributes, row = context.operator.attributes, context.shapes[0][-1]
    least, most = (np.array(bound, object) for bound in extremes(_exponents(context, inputs[0], constants)))
    multiplier = np.array(attributes["multiplier"], object)
    result = rounding_shift(context, "product", least * multiplier, most * multiplier, attributes["shift"])
    shape = (1,) * len(context.shapes[0])
    low = np.zeros_like(result.low) if "mask" in constants else result.low
    return Interval(low.reshape(shape), result.high.reshape(shape), row_sum=row * int(result.high))


def _weighted_mean(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    """sums = total * v with v in `mean`, so that |sums * floor(m / total)| <= |v| * m, whatever the total."""
    attributes, (sums, weights) = context.operator.attributes, inputs
    assert sums.mean is not None  # `check` wants the product of weights, which are unsigned
    assert weights.row_sum is not None
    context.note("sum of weights", 1, weights.row_sum)
    context.note("reciprocal", attributes["multiplier"] // weights.row_sum, attributes["multiplier"])
    low, high = (np.array(bound * attributes["multiplier"], object) for bound in sums.mean)
    result = rounding_shift(context, "product", np.minimum(low, 0), np.maximum(high, 0), attributes["shift"])
    shape = (1,) * len(context.shapes[0])
    return Interval(result.low.reshape(shape), result.high.reshape(shape))


def _gelu(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    attributes = context.operator.attributes
    low, high = inputs[0].extremes()
    if attributes["kind"] == "table":
        offset = 1 << (context.values[0].bits - 1)
        reached = constants["table"][low + offset : high + offset + 1]
        result = Interval(reached.min().astype(np.int64), reached.max().astype(np.int64))
    else:
        x, row_max = np.arange(low, high + 1), np.zeros(1, np.int64)
        if attributes["kind"] == "shift":  # every pair of x and max(0, row maximum) >= x
            x, row_max = np.mgrid[low : high + 1, 0 : max(high, 0) + 1].reshape(2, -1)
            x, row_max = x[x <= row_max], row_max[x <= row_max]
        value, seen = gelu_before_shift(attributes, constants, x, row_max)
        for name, (smallest, largest) in seen.items():
            context.note(name, smallest, largest)
        context.note("function", value, value)
        least, most = (np.array(bound, object) for bound in extremes(value))
        products = product(least, most, np.array(attributes["multiplier"], object))
        result = rounding_shift(context, "product", *products, attributes["shift"])
    shape = (1,) * len(context.shapes[0])
    return Interval(result.low.reshape(shape), result.high.reshape(shape))


def _upsample(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    """Weights of (2s)^2 in all: a class reaches that times its own extremes, where its neighbours are alike."""
    low, high = (bound.astype(object) for bound in (inputs[0].low, inputs[0].high))
    unit = 2 * context.operator.attributes["factor"]
    low, high = low.min((1, 2), keepdims=True), high.max((1, 2), keepdims=True)
    remedy = "use scores of fewer bits"
    context.note("rows", low * unit, high * unit, 32, remedy)
    context.note("sum", low * unit**2, high * unit**2, 32, remedy)
    return Interval(*((bound * unit**2).astype(np.int64) for bound in (low, high)))


def _argmax(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    zero = np.zeros((1, 1), np.int64)
    return Interval(zero, zero + context.shapes[0][0] - 1)


RULES: dict[str, Rule] = {
    "quantize_input": _quantize_input,
    "patches": _move(_patches),
    "constant": _constant,
    "concat": _concat,
    "reshape": _move(lambda context, bound: bound.reshape(context.output.shape)),
    "transpose": _move(lambda context, bound: bound.transpose(context.operator.attributes["axes"])),
    "slice": _move(_slice),
    "gather": _gather,
    "linear": _linear,
    "matmul": _matmul,
    "requantize": _requantize,
    "add": _add,
    "layernorm": layernorm,
    "softmax": _softmax,
    "exponential": _exponential,
    "weighted_mean": _weighted_mean,
    "gelu": _gelu,
    "upsample": _upsample,
    "argmax": _argmax,
}
