"""Exact values of softmax's exponentials and of GELU, in Python integers of any size.

Their arguments are so few (2^bits) that checks and bounds try them all. Arrays here have dtype object, so nothing
can wrap; runtimes compute the same formulas in int64, which the checks prove wide enough. Formulas:
docs/program-format.md; sources: I-ViT (arXiv 2207.01405), I-BERT (arXiv 2101.01321).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Extremes = dict[str, tuple[int, int]]  # name of an intermediate -> smallest and largest value


def integers(start: int, stop: int) -> np.ndarray:
    """start, start + 1, ..., stop - 1 as Python integers."""
    return np.arange(start, stop).astype(object)


def extremes(array: np.ndarray) -> tuple[int, int]:
    return int(array.min()), int(array.max())


def exponent(
    attributes: Mapping[str, Any], constants: Mapping[str, np.ndarray], distance: np.ndarray
) -> tuple[np.ndarray, Extremes]:
    """Softmax's E for `distance` = max(logits) - logits >= 0 (dtype object), and the extremes on the way.

    Raises OverflowError naming the intermediate that leaves int64.
    """
    kind = attributes["kind"]
    if kind == "table":
        return constants["table"].astype(object)[distance.astype(np.int64)], {}
    if kind == "shift":
        return shift_exponential(attributes, -distance), {}
    if kind == "polynomial":
        return _polynomial_exponential(attributes, -distance)
    value, seen = piecewise(attributes, constants, distance)
    return np.maximum(value, 0), seen


def shift_exponential(attributes: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Shiftmax's exponential of x <= 0 (I-ViT, section 3.3): at most -x0 << n, which it is at x = 0."""
    q, r = _decompose(attributes, x, base_two=True)
    return ((r >> 1) - attributes["x0"]) << (attributes["n"] - q)


def _polynomial_exponential(attributes: Mapping[str, Any], x: np.ndarray) -> tuple[np.ndarray, Extremes]:
    """I-BERT's exponential of x <= 0 (section 3.5): a polynomial of second degree on (x0, 0], halved q times."""
    q, r = _decompose(attributes, x, base_two=False)
    polynomial = (r + attributes["b"]) ** 2 + attributes["c"]
    shift = q - attributes["u"]
    rounded = (polynomial + (1 << np.maximum(shift - 1, 0))) >> np.maximum(shift, 0)
    value = np.where(shift > 0, rounded, polynomial << np.maximum(-shift, 0))
    return value, {"polynomial": extremes(polynomial)}


def _decompose(attributes: Mapping[str, Any], x: np.ndarray, *, base_two: bool) -> tuple[np.ndarray, np.ndarray]:
    """x = q*x0 + r with 0 <= q <= n and x0 < r <= 0, after fraction bits, the change of base and the clamp."""
    x0 = attributes["x0"]
    x = x << attributes["fraction_bits"]
    if base_two:
        x = x + (x >> 1) - (x >> 4)  # ~ x * log2(e)
    x = np.maximum(x, attributes["n"] * x0)
    q = x // x0
    return q, x - q * x0


def piecewise(
    attributes: Mapping[str, Any], constants: Mapping[str, np.ndarray], x: np.ndarray
) -> tuple[np.ndarray, Extremes]:
    """The piecewise polynomial at x by Horner's rule; the extremes of its products ("horner")."""
    segment = np.searchsorted(constants["bounds"].astype(np.int64), x.astype(np.int64), side="right")
    t = x - constants["origins"].astype(object)[segment]
    coefficients = constants["coefficients"].astype(object)[segment]
    g = attributes["step_shift"]
    value, low, high = coefficients[:, -1], 0, 0
    for j in range(coefficients.shape[1] - 2, -1, -1):
        product = value * t + (1 << (g - 1))
        low, high = min(low, product.min()), max(high, product.max())
        value = (product >> g) + coefficients[:, j]
    return value, {"horner": (int(low), int(high))}


def gelu_before_shift(
    attributes: Mapping[str, Any], constants: Mapping[str, np.ndarray], x: np.ndarray, row_max: np.ndarray
) -> tuple[np.ndarray, Extremes]:
    """What GELU multiplies and shifts to the output, for every kind but `table`; x, row_max: 1-d.

    `row_max` is max(0, largest x of the row) and counts only in kind `shift` (ShiftGELU, I-ViT, section 3.4), where
    arrays are int64: `check` keeps the two exponentials below 2^31. Elsewhere they are of dtype object.
    """
    kind = attributes["kind"]
    if kind == "piecewise":
        return piecewise(attributes, constants, x)
    if kind == "polynomial":  # I-BERT, section 3.4: x * (erf + 1), both negative at scale "one"
        y = x << attributes["fraction_bits"]
        sign = (y > 0).astype(object) - (y < 0).astype(object)
        error_function = sign * ((np.minimum(abs(y), -attributes["b"]) + attributes["b"]) ** 2 + attributes["c"])
        return y * (error_function + attributes["one"]), {"erf": extremes(error_function)}
    farthest = int(row_max.max()) - min(int(x.min()), 0)
    exponentials = shift_exponential(attributes, -integers(0, farthest + 1)).astype(np.int64)
    of_x, of_zero = exponentials[row_max - x], exponentials[row_max]
    total = of_x + of_zero
    reciprocal = (2**31 - 1) // total
    sigmoid = (of_x * reciprocal) >> (31 - attributes["sigmoid_bits"])
    seen = {"sum": extremes(total), "reciprocal": extremes(reciprocal), "sigmoid": extremes(sigmoid)}
    return x * sigmoid, seen
