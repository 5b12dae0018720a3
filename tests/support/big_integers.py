"""A third reading of docs/program-format.md: every operator in Python integers and fractions, entry by entry.

Slow and obvious. Arrays of dtype object only hold and rearrange the integers; nothing can wrap or round. Nothing of
the package is executed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from intvit.program import Operator, Program


def trace(program: Program, image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (operator name, object array without batch axis) for one uint8 image [C, H, W]."""
    values = {program.input: image.astype(object)}
    for operator in program.operators:
        constants = {role: array.astype(object) for role, array in program.constants_of(operator).items()}
        inputs = [values[name] for name in operator.inputs]
        bits = [program.values[name].bits for name in operator.inputs]
        values[operator.output] = evaluate(operator, inputs, constants, bits)
        yield operator.name, values[operator.output]


def evaluate(operator: Operator, inputs: list[np.ndarray], constants: dict, bits: list[int]) -> np.ndarray:
    """One operator. `bits`: widths of the inputs."""
    op, attributes = operator.op, operator.attributes
    if op == "constant":
        return constants["value"]
    if op == "concat":
        return np.concatenate(inputs, attributes["axis"])
    x = inputs[0]
    if op == "reshape":
        return x.reshape(attributes["shape"])
    if op == "transpose":
        return x.transpose(attributes["axes"])
    if op == "slice":
        return x.take(range(attributes["start"], attributes["stop"]), attributes["axis"])
    if op == "gather":
        axis, index = attributes["axis"], constants["index"]
        parts = [x.take([max(i, 0)], axis) * (i >= 0) for i in index]
        return np.concatenate(parts, axis)
    if op == "patches":
        return patches(x, attributes["patch"])
    if op == "quantize_input":
        result = np.empty(x.shape, object)
        for (c, *rest), u in np.ndenumerate(x):
            v = u * constants["multiplier"][c] + constants["bias"][c]
            result[c, *rest] = clamp(round_shift(v, attributes["shift"]), attributes["bits"])
        return result
    if op == "linear":
        rows = [
            [dot(row, w) + b for w, b in zip(constants["weight"], constants["bias"], strict=True)]
            for row in x.reshape(-1, x.shape[-1])
        ]
        return np.array(rows, object).reshape(*x.shape[:-1], -1)
    if op == "matmul":
        return matmul(x, inputs[1], attributes["transpose_b"])
    if op in ("requantize", "add"):
        return multiply_shift(operator, inputs, constants)
    if op == "weighted_mean":
        return weighted_mean(x, inputs[1], attributes)
    if op == "upsample":
        return upsample(x, attributes["factor"])
    if op == "argmax":
        return np.array(
            [[scores.index(max(scores)) for scores in row] for row in x.transpose(1, 2, 0).tolist()], object
        )
    rows = x.reshape(-1, x.shape[-1])
    if "mask" in constants:
        return masked(operator, x, constants, bits[0])
    results = [row_function(op)(list(row), operator, constants, bits[0]) for row in rows]
    return np.array(results, object).reshape(x.shape)


def masked(operator: Operator, x: np.ndarray, constants: dict, bits: int) -> np.ndarray:
    """The row function of the logits that are kept, zeros between its results."""
    result = np.zeros(x.shape, object)
    kept = np.broadcast_to(constants["mask"], x.shape) == 0
    for row in np.ndindex(x.shape[:-1]):
        result[row][kept[row]] = row_function(operator.op)(list(x[row][kept[row]]), operator, constants, bits)
    return result


def round_shift(v: int, e: int) -> int:
    """v / 2^e, rounded half up."""
    return math.floor(Fraction(v, 2**e) + Fraction(1, 2))


def clamp(v: int, bits: int, signed: bool = True) -> int:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return min(max(v, low), high)


def dot(a, b) -> int:
    return sum(int(x) * int(y) for x, y in zip(a, b, strict=True))


def patches(x: np.ndarray, size: int) -> np.ndarray:
    channels, height, width = x.shape
    rows = []
    for top in range(0, height, size):
        for left in range(0, width, size):
            rows.append([x[c, top + i, left + j] for c in range(channels) for i in range(size) for j in range(size)])
    return np.array(rows, object)


def matmul(a: np.ndarray, b: np.ndarray, turned: bool) -> np.ndarray:
    result = np.empty((*a.shape[:-1], b.shape[-2] if turned else b.shape[-1]), object)
    for *lead, i, j in np.ndindex(result.shape):
        column = b[(*lead, j)] if turned else b[(*lead, slice(None), j)]
        result[(*lead, i, j)] = dot(a[(*lead, i)], column)
    return result


def multiply_shift(operator: Operator, inputs: list[np.ndarray], constants: dict) -> np.ndarray:
    def at(role: str, c: int) -> int:
        return constants[role][c if len(constants[role]) > 1 else 0]

    result = np.empty(inputs[0].shape, object)
    for index in np.ndindex(result.shape):
        c = index[-1]
        if operator.op == "add":
            other = inputs[1][index[len(index) - inputs[1].ndim :]]
            v = inputs[0][index] * at("multiplier_a", c) + other * at("multiplier_b", c)
        else:
            v = inputs[0][index] * at("multiplier", c)
        rounded = round_shift(v, at("shift", c))
        result[index] = clamp(rounded, operator.attributes["bits"], operator.attributes.get("signed", True))
    return result


def weighted_mean(sums: np.ndarray, weights: np.ndarray, attributes: dict) -> np.ndarray:
    result = np.empty(sums.shape, object)
    for (*row, d), v in np.ndenumerate(sums):
        factor = attributes["multiplier"] // sum(int(w) for w in weights[tuple(row)])
        result[(*row, d)] = clamp(round_shift(v * factor, attributes["shift"]), attributes["bits"])
    return result


def between(x: np.ndarray, place: int, factor: int, axis: int) -> np.ndarray:
    """2 factor times linear interpolation of x along an axis at the center of fine entry `place`."""
    center = Fraction(2 * place + 1, 2 * factor) - Fraction(1, 2)
    low = math.floor(center)
    near, far = (x.take(min(max(i, 0), x.shape[axis] - 1), axis) for i in (low, low + 1))
    share = center - low
    result = 2 * factor * ((1 - share) * near + share * far)
    assert all(value.denominator == 1 for value in np.nditer(result, ["refs_ok"]) for value in [Fraction(value.item())])
    return np.vectorize(int, otypes=[object])(result)


def upsample(x: np.ndarray, factor: int) -> np.ndarray:
    """Both axes, entry by entry."""
    rows = np.stack([between(x, place, factor, 1) for place in range(x.shape[1] * factor)], 1)
    return np.stack([between(rows, place, factor, 2) for place in range(x.shape[2] * factor)], 2)


def row_function(op: str):
    return {"layernorm": layernorm, "softmax": softmax, "exponential": exponential, "gelu": gelu}[op]


def layernorm(x: list[int], operator: Operator, constants: dict, bits: int) -> list[int]:
    attributes, size = operator.attributes, len(x)
    if "channel_shift" in constants:
        x = [v * 2**k for v, k in zip(x, constants["channel_shift"], strict=True)]
    if attributes["method"] == "exact":
        numerator, y = 2**40, [size * v - sum(x) for v in x]
        root = math.isqrt(size * sum(v * v for v in x) - sum(x) ** 2)
    else:
        numerator, mean = 2**31 - 1, math.floor(Fraction(sum(x), size) + Fraction(1, 2))
        y = [v - mean for v in x]
        if attributes["method"] == "ibert":
            shift = attributes["square_shift"]
            root = math.isqrt(sum((v // 2**shift) ** 2 for v in y)) * 2**shift
        else:
            variance = sum(v * v for v in y)
            root = (
                math.isqrt(variance)
                if attributes["newton_steps"] == 0
                else newton(variance, attributes["newton_steps"])
            )
            root = root if variance else 0
    factor = numerator // root if root else 0
    n = [(v * factor) // 2 ** attributes["normalizer_shift"] for v in y]
    columns = zip(n, *(constants[role] for role in ("multiplier", "bias", "shift")), strict=True)
    return [clamp(round_shift(v * m + b, e), attributes["bits"]) for v, m, b, e in columns]


def newton(v: int, steps: int) -> int:
    root = 2**16
    for _ in range(steps):
        root = (root + v // root) // 2
    return root


def shift_exponential(x: int, attributes: dict) -> int:
    x *= 2 ** attributes["fraction_bits"]
    x = x + x // 2 - x // 16
    x0, n = attributes["x0"], attributes["n"]
    q, r = quotient(x, x0, n)
    return (r // 2 - x0) * 2 ** (n - q)


def quotient(x: int, x0: int, n: int) -> tuple[int, int]:
    x = max(x, n * x0)
    q = (-x) // (-x0)
    return q, x - q * x0


def polynomial_exponential(x: int, attributes: dict) -> int:
    q, r = quotient(x * 2 ** attributes["fraction_bits"], attributes["x0"], attributes["n"])
    value, k = (r + attributes["b"]) ** 2 + attributes["c"], q - attributes["u"]
    return value * 2**-k if k <= 0 else round_shift(value, k)


def piecewise(x: int, attributes: dict, constants: dict) -> int:
    segment = len([bound for bound in constants["bounds"] if bound <= x])
    t, coefficients = x - constants["origins"][segment], list(constants["coefficients"][segment])
    value = coefficients.pop()
    while coefficients:
        value = round_shift(value * t, attributes["step_shift"]) + coefficients.pop()
    return value


def exponentials(x: list[int], attributes: dict, constants: dict) -> list[int]:
    functions = {
        "table": lambda d: constants["table"][d],
        "shift": lambda d: shift_exponential(-d, attributes),
        "polynomial": lambda d: polynomial_exponential(-d, attributes),
        "piecewise": lambda d: max(piecewise(d, attributes, constants), 0),
    }
    return [functions[attributes["kind"]](max(x) - v) for v in x]


def exponential(x: list[int], operator: Operator, constants: dict, bits: int) -> list[int]:
    attributes = operator.attributes
    values = exponentials(x, attributes, constants)
    m, e, b = (attributes[key] for key in ("multiplier", "shift", "bits"))
    return [clamp(round_shift(v * m, e), b, signed=False) for v in values]


def softmax(x: list[int], operator: Operator, constants: dict, bits: int) -> list[int]:
    attributes, b = operator.attributes, operator.attributes["bits"]
    values = exponentials(x, attributes, constants)
    if attributes["normalization"] == "floor":
        return [v * ((2**31 - 1) // sum(values)) // 2 ** (32 - b) for v in values]
    return [min(round_shift(v * ((2**46 - 1) // sum(values)), 46 - b), 2**b - 1) for v in values]


def gelu(x: list[int], operator: Operator, constants: dict, bits: int) -> list[int]:
    attributes = operator.attributes
    if attributes["kind"] == "table":
        return [constants["table"][v + 2 ** (bits - 1)] for v in x]
    largest = max(0, *x)
    result = []
    for v in x:
        if attributes["kind"] == "shift":
            limit, bits = attributes["limit"], attributes["reciprocal_bits"]
            a = shift_exponential(min(v, limit) - min(largest, limit), attributes)
            b = shift_exponential(-min(largest, limit), attributes)
            value = v * (a * ((2**bits - 1) // (a + b)) // 2 ** (bits - attributes["sigmoid_bits"]))
        elif attributes["kind"] == "polynomial":
            y = v * 2 ** attributes["fraction_bits"]
            sign = (y > 0) - (y < 0)
            value = y * (
                sign * ((min(abs(y), -attributes["b"]) + attributes["b"]) ** 2 + attributes["c"]) + attributes["one"]
            )
        else:
            value = piecewise(v, attributes, constants)
        result.append(clamp(round_shift(value * attributes["multiplier"], attributes["shift"]), attributes["bits"]))
    return result
