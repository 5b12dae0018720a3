"""The interval rule of LayerNorm: how large normalized entries get, one by one and as a row."""

from math import isqrt, sqrt

import numpy as np

from intvit.program.interval_arithmetic import Ball, Interval, RuleContext, product, rounding_shift
from intvit.program.program import limits


def layernorm(context: RuleContext, inputs: list[Interval], constants: dict[str, np.ndarray]) -> Interval:
    attributes, size = context.operator.attributes, context.shapes[0][-1]
    x = inputs[0].channels()
    low, high = (np.broadcast_to(bound.reshape(-1), size).astype(object) for bound in (x.low, x.high))
    if "channel_shift" in constants:
        low, high = (bound << constants["channel_shift"].astype(object) for bound in (low, high))
    context.note("S", low.sum(), high.sum(), remedy="use fewer bits for the stream")
    exact, k = attributes["method"] == "exact", attributes["normalizer_shift"]
    largest, length = (normalized_exact if exact else normalized_rounded)(context, low, high)
    n_low, n_high = -largest >> k, largest >> k
    context.note("normalized", n_low, n_high)
    ones = np.ones(size, object)
    product_low, product_high = product(n_low * ones, n_high * ones, constants["multiplier"])
    bias, shape = constants["bias"].astype(object), (1,) * (len(context.shapes[0]) - 1) + (-1,)
    result = rounding_shift(context, "product", product_low + bias, product_high + bias, constants["shift"])
    scale = np.ldexp(1.0, -constants["shift"].astype(np.int64))  # exact
    center = np.clip(bias.astype(np.float64) * scale, *limits(context.output.bits, True))
    # Rounding and clamping never take an output further from the clamped bias than n * gain + 1/2.
    radius = length / 2.0**k + sqrt(size)  # >> k takes less than 1 off each n
    ball = Ball(center, np.abs(constants["multiplier"].astype(np.float64)) * scale, radius * (1 + 2.0**-30))
    return Interval(result.low.reshape(shape), result.high.reshape(shape), ball=ball)


def normalized_exact(context: RuleContext, low: np.ndarray, high: np.ndarray) -> tuple[int, float]:
    """Largest |y * F|, F = floor(2^40 / R), and the length of a row of them.

    They rest on sum(y^2) = C * T, on y^2 <= (C-1) * T and, unless all x are equal, on T >= C - 1.
    """
    size, squares = low.size, np.maximum(low**2, high**2).sum()
    wide = "use fewer bits for the stream"
    context.note("C * sum of squares", 0, size * squares, remedy=wide)
    context.note("S squared", 0, max(low.sum() ** 2, high.sum() ** 2), remedy=wide)
    center = (int(low.min()) + int(high.max())) // 2  # T = C * sum (x - mean)^2 <= C * sum (x - any center)^2
    radicand = size * np.maximum((low - center) ** 2, (high - center) ** 2).sum()
    context.note("T", 0, radicand, 62, wide)
    y_low, y_high = size * low - high.sum() - (low - high), size * high - low.sum() - (high - low)
    context.note("y", y_low, y_high, remedy=wide)
    root = max(isqrt(size - 1), 1)
    # |y|/R <= sqrt(C-1) * sqrt(T)/R, T <= R^2 + 2R, and (R^2 + 2R)/R^2 falls with R, whose least value is `root`
    largest = isqrt((size - 1) * (root * root + 2 * root) * 2**80 // (root * root)) + 1
    largest = min(largest, 2**40 * max(abs(int(y_low.min())), abs(int(y_high.max()))))
    context.note("y * F", -largest, largest)
    return largest, 2.0**40 * sqrt(size * (root * root + 2 * root)) / root


def normalized_rounded(context: RuleContext, low: np.ndarray, high: np.ndarray) -> tuple[int, float]:
    """Largest |y * F|, F = floor((2^31 - 1) / R), and the length of a row of them, for `ivit` and `ibert`.

    |y| <= R, or 2R - 1 after a shift s of the squares. sqrt(sum(y^2)) <= sqrt(3) R, for R >= 1 is a root rounded down;
    the shift takes less than 2^s <= R off each y.
    """
    shift = context.operator.attributes.get("square_shift", 0)
    size, numerator, wide = low.size, 2**31 - 1, "use fewer bits for the stream"
    mean_low, mean_high = ((2 * bound.sum() + size) // (2 * size) for bound in (low, high))
    context.note("mean", mean_low, mean_high)
    y_low, y_high = low - mean_high, high - mean_low
    context.note("y", y_low, y_high, remedy=wide)
    squares = np.maximum((y_low >> shift) ** 2, (y_high >> shift) ** 2).sum()
    context.note("sum of squares", 0, squares, 62, wide)
    largest = (2 if shift else 1) * numerator
    largest = min(largest, numerator * max(abs(int(y_low.min())), abs(int(y_high.max()))))
    context.note("y * F", -largest, largest)
    return largest, numerator * (sqrt(3) + (sqrt(size) if shift else 0))
