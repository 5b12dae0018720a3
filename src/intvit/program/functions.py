"""Exact values of softmax's exponentials and of GELU, for checks and bounds.

Their arguments are so few (2^bits) that all are tried. Arrays are int64 where the magnitudes are known to fit, and hold
Python integers (dtype object) otherwise, so that nothing wraps. Runtimes compute the same formulas in int64, which the
checks prove wide enough. Formulas: docs/program-format.md; sources: I-ViT (arXiv 2207.01405), I-BERT (2101.01321).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Extremes = dict[str, tuple[int, int]]  # name of an intermediate -> smallest and largest value


def extremes(array: np.ndarray) -> tuple[int, int]:
    return int(array.min()), int(array.max())


def fitting(array: np.ndarray, largest: int) -> np.ndarray:
    """int64 if `largest`, a bound on all that is computed from the array, is below 2^62; Python integers otherwise."""
    return array.astype(np.int64 if largest < 2**62 else object)


def magnitude(array: np.ndarray) -> int:
    """Largest absolute value, 0 if there is none."""
    return max(-int(array.min()), int(array.max())) if array.size else 0


def exponent(
    attributes: Mapping[str, Any], constants: Mapping[str, np.ndarray], distance: np.ndarray
) -> tuple[np.ndarray, Extremes]:
    """Softmax's E for `distance` = max(logits) - logits >= 0 (int64, 1-d), and the extremes on the way."""
    kind = attributes["kind"]
    if kind == "table":
        return constants["table"].astype(np.int64)[distance], {}
    if kind == "shift":
        return shift_exponential(attributes, -distance), {}
    if kind == "polynomial":
        return _polynomial_exponential(attributes, -distance)
    value, seen = piecewise(attributes, constants, distance)
    return np.maximum(value, 0), seen


def shift_exponential(attributes: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Shiftmax's exponential of x <= 0 (I-ViT, section 3.3): at most -x0 << n, which it is at x = 0."""
    x0, n = attributes["x0"], attributes["n"]
    x = fitting(x, max(magnitude(x) << attributes["fraction_bits"] + 1, -x0 << n)) << attributes["fraction_bits"]
    q, r = _decompose(attributes, x + (x >> 1) - (x >> 4))  # ~ x * log2(e)
    value: np.ndarray = ((r >> 1) - x0) << (n - q)
    return value


def _polynomial_exponential(attributes: Mapping[str, Any], x: np.ndarray) -> tuple[np.ndarray, Extremes]:
    """I-BERT's exponential of x <= 0 (section 3.5): a polynomial of second degree on (x0, 0], halved q times."""
    f, n, u = attributes["fraction_bits"], attributes["n"], attributes["u"]
    peak = (abs(attributes["x0"]) + abs(attributes["b"])) ** 2 + abs(attributes["c"])
    x = fitting(x, max(magnitude(x) << f, (peak << max(u, 0)) + (1 << max(n - u, 0)))) << f
    q, r = _decompose(attributes, x)
    polynomial = (r + attributes["b"]) ** 2 + attributes["c"]
    shift = q - u
    rounded = (polynomial + (1 << np.maximum(shift - 1, 0))) >> np.maximum(shift, 0)
    value = np.where(shift > 0, rounded, polynomial << np.maximum(-shift, 0))
    return value, {"polynomial": extremes(polynomial)}


def _decompose(attributes: Mapping[str, Any], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x = q*x0 + r with 0 <= q <= n and x0 < r <= 0, after the clamp x >= n*x0."""
    x = np.maximum(x, attributes["n"] * attributes["x0"])
    q = x // attributes["x0"]
    return q, x - q * attributes["x0"]


def piecewise(
    attributes: Mapping[str, Any], constants: Mapping[str, np.ndarray], x: np.ndarray
) -> tuple[np.ndarray, Extremes]:
    """The piecewise polynomial at x by Horner's rule; the extremes of its products ("horner")."""
    segment = np.searchsorted(constants["bounds"].astype(np.int64), x, side="right")
    t = x - constants["origins"].astype(np.int64)[segment]
    coefficients, g = constants["coefficients"].astype(np.int64), attributes["step_shift"]
    value, largest = magnitude(coefficients[:, -1]), 0
    for column in coefficients.T[-2::-1]:
        largest = max(largest, value * magnitude(t) + (1 << g))
        value = (largest >> g) + 1 + magnitude(column)
    t, coefficients = fitting(t, largest), fitting(coefficients, largest)[segment]
    result, low, high = coefficients[:, -1], 0, 0
    for j in range(coefficients.shape[1] - 2, -1, -1):
        product = result * t + (1 << (g - 1))
        low, high = min(low, int(product.min())), max(high, int(product.max()))
        result = (product >> g) + coefficients[:, j]
    return result, {"horner": (low, high)}


def gelu_before_shift(
    attributes: Mapping[str, Any], constants: Mapping[str, np.ndarray], x: np.ndarray, row_max: np.ndarray
) -> tuple[np.ndarray, Extremes]:
    """What GELU multiplies and shifts to the output, for every kind but `table`; x, row_max: int64, 1-d.

    `row_max` is max(0, largest x of the row) and counts only in kind `shift` (ShiftGELU, I-ViT, section 3.4). `check`
    keeps its two exponentials below 2^31; their products with the reciprocal stay below 2^reciprocal_bits <= 2^46.
    """
    kind = attributes["kind"]
    if kind == "piecewise":
        return piecewise(attributes, constants, x)
    if kind == "polynomial":  # I-BERT, section 3.4: x * (erf + 1), both negative at the scale of "one"
        y = x.astype(object) << attributes["fraction_bits"]
        sign = (y > 0).astype(object) - (y < 0).astype(object)
        error_function = sign * ((np.minimum(abs(y), -attributes["b"]) + attributes["b"]) ** 2 + attributes["c"])
        return y * (error_function + attributes["one"]), {"erf": extremes(error_function)}
    limit, bits = attributes["limit"], attributes["reciprocal_bits"]
    z, top = np.minimum(x, limit), np.minimum(row_max, limit)
    farthest = int(top.max()) - min(int(z.min()), 0)
    exponentials = shift_exponential(attributes, -np.arange(farthest + 1))
    of_x, of_zero = exponentials[top - z], exponentials[top]
    total = of_x + of_zero
    reciprocal = (2**bits - 1) // total
    ratio = of_x * reciprocal
    sigmoid = ratio >> (bits - attributes["sigmoid_bits"])
    seen = {"sum": extremes(total), "reciprocal": extremes(reciprocal), "ratio": extremes(ratio)}
    seen["sigmoid"] = extremes(sigmoid)
    return x * sigmoid, seen
