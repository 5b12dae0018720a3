"""What each operator computes on its way, in Python integers: the values that a range certificate speaks of.

`intermediates(operator, inputs, constants)` gives arrays by the certificate's names. Inputs are object arrays of Python
integers without batch axis, so that nothing wraps.
"""

import math

import numpy as np

from intvit.program import Operator
from tests.support import big_integers as big


def intermediates(operator: Operator, inputs: list[np.ndarray], constants: dict[str, np.ndarray]) -> dict:
    """By name: every value that the operator may form from these inputs; partial sums in the stored order."""
    constants = {role: array.astype(object) for role, array in constants.items()}
    function = FUNCTIONS.get(operator.op)
    return function(operator, inputs, constants) if function else {}


def half(shift: np.ndarray | int) -> np.ndarray | int:
    return 2 ** (shift - 1)


def quantize_input(operator: Operator, inputs: list, constants: dict) -> dict:
    multiplier, bias = (constants[role].reshape(-1, 1, 1) for role in ("multiplier", "bias"))
    product = inputs[0] * multiplier + bias
    return shifted(product, operator.attributes["shift"])


def shifted(product: np.ndarray, shift: np.ndarray | int, name: str = "product") -> dict:
    rounded = product + half(shift)
    return {name: np.stack([product, rounded]), "before clamp": rounded // 2**shift}


def linear(operator: Operator, inputs: list, constants: dict) -> dict:
    rows = inputs[0].reshape(-1, inputs[0].shape[-1]).astype(np.int64)
    terms = rows[:, None, :] * constants["weight"].astype(np.int64)
    return {"accumulator": partial_sums(terms, constants["bias"].astype(np.int64))}


def partial_sums(terms: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The worst orders: all positive terms first, all negative ones first, and the whole sum."""
    up, down = np.maximum(terms, 0).sum(-1), np.minimum(terms, 0).sum(-1)
    return np.stack([up + np.maximum(bias, 0), down + np.minimum(bias, 0), up + down + bias])


def matmul(operator: Operator, inputs: list, constants: dict) -> dict:
    a, b = (x.astype(np.int64) for x in inputs)
    b = b if operator.attributes["transpose_b"] else b.swapaxes(-1, -2)
    return {"accumulator": partial_sums(a[..., :, None, :] * b[..., None, :, :], np.int64(0))}


def requantize(operator: Operator, inputs: list, constants: dict) -> dict:
    return shifted(inputs[0] * constants["multiplier"], constants["shift"])


def add(operator: Operator, inputs: list, constants: dict) -> dict:
    a, b = inputs[0] * constants["multiplier_a"], inputs[1] * constants["multiplier_b"]
    return {"product a": a, "product b": b} | shifted(a + b, constants["shift"], "sum of products")


def layernorm(operator: Operator, inputs: list, constants: dict) -> dict:
    attributes, x = operator.attributes, inputs[0].reshape(-1, inputs[0].shape[-1])
    size = x.shape[-1]
    x = x * 2 ** constants.get("channel_shift", np.zeros(size, object))
    total = x.sum(-1, keepdims=True)
    if attributes["method"] == "exact":
        squares, numerator, y = size * (x * x).sum(-1, keepdims=True), 2**40, size * x - total
        seen = {"C * sum of squares": squares, "S squared": total * total, "T": squares - total * total}
        root = np.array([[math.isqrt(t)] for t in seen["T"][:, 0]], object)
    else:
        numerator, mean = 2**31 - 1, (2 * total + size) // (2 * size)
        y, s = x - mean, attributes.get("square_shift", 0)
        squares = ((y // 2**s) ** 2).sum(-1, keepdims=True)
        seen = {"mean": mean, "sum of squares": squares}
        steps = attributes.get("newton_steps", 0)
        roots = [(big.newton(v, steps) if v else 0) if steps else math.isqrt(v) for v in squares[:, 0]]
        root = np.array([[r * 2**s] for r in roots], object)
    product = y * np.where(root > 0, numerator // np.maximum(root, 1), 0)
    n = product // 2 ** attributes["normalizer_shift"]
    seen |= {"S": total, "y": y, "y * F": product, "normalized": n}
    return seen | shifted(n * constants["multiplier"] + constants["bias"], constants["shift"])


def exponents(operator: Operator, inputs: list, constants: dict) -> tuple[list[np.ndarray], np.ndarray]:
    """E of each row's logits that no mask excludes, and all of them."""
    x = inputs[0].reshape(-1, inputs[0].shape[-1])
    mask = np.broadcast_to(constants.get("mask", np.zeros(1, object)), inputs[0].shape).reshape(x.shape)
    rows = [
        np.array(big.exponentials(list(row[excluded == 0]), operator.attributes, constants), object)
        for row, excluded in zip(x, mask, strict=True)
    ]
    return rows, np.concatenate(rows)


def softmax(operator: Operator, inputs: list, constants: dict) -> dict:
    rows, every = exponents(operator, inputs, constants)
    rounded, bits = operator.attributes["normalization"] == "rounded", operator.attributes["bits"]
    numerator = 2**46 - 1 if rounded else 2**31 - 1
    reciprocals = [numerator // row.sum() for row in rows]
    products = np.concatenate(
        [row * f + (half(46 - bits) if rounded else 0) for row, f in zip(rows, reciprocals, strict=True)]
    )
    return {
        "exponential": every,
        "sum": np.array([row.sum() for row in rows], object),
        "reciprocal": np.array(reciprocals, object),
        "product": products,
    }


def exponential(operator: Operator, inputs: list, constants: dict) -> dict:
    _, every = exponents(operator, inputs, constants)
    attributes = operator.attributes
    return {"exponential": every} | shifted(every * attributes["multiplier"], attributes["shift"])


def weighted_mean(operator: Operator, inputs: list, constants: dict) -> dict:
    attributes, total = operator.attributes, inputs[1].sum(-1, keepdims=True)
    reciprocal = attributes["multiplier"] // total
    product = shifted(inputs[0] * reciprocal, attributes["shift"])
    return {"sum of weights": total, "reciprocal": reciprocal} | product


def gelu(operator: Operator, inputs: list, constants: dict) -> dict:
    attributes = operator.attributes
    if attributes["kind"] != "shift":
        return {}  # functions of one 8-bit argument: their outputs are compared
    seen: dict[str, list[int]] = {name: [] for name in ("sum", "reciprocal", "ratio", "sigmoid", "function")}
    bits, limit = attributes["reciprocal_bits"], attributes["limit"]
    for row in inputs[0].reshape(-1, inputs[0].shape[-1]):
        top = min(max(0, *row), limit)
        for x in row:
            of_x = big.shift_exponential(min(x, limit) - top, attributes)
            total = of_x + big.shift_exponential(-top, attributes)
            ratio = of_x * ((2**bits - 1) // total)
            sigmoid = ratio // 2 ** (bits - attributes["sigmoid_bits"])
            for name, value in zip(seen, (total, (2**bits - 1) // total, ratio, sigmoid, x * sigmoid), strict=True):
                seen[name].append(value)
    arrays = {name: np.array(values, object) for name, values in seen.items()}
    return arrays | shifted(arrays["function"] * attributes["multiplier"], attributes["shift"])


def upsample(operator: Operator, inputs: list, constants: dict) -> dict:
    x, factor = inputs[0], operator.attributes["factor"]
    rows = np.stack([big.between(x, Y, factor, 1) for Y in range(x.shape[1] * factor)], 1)
    return {"rows": rows, "sum": big.upsample(x, factor)}


FUNCTIONS = {
    "quantize_input": quantize_input,
    "linear": linear,
    "matmul": matmul,
    "requantize": requantize,
    "add": add,
    "layernorm": layernorm,
    "softmax": softmax,
    "exponential": exponential,
    "weighted_mean": weighted_mean,
    "gelu": gelu,
    "upsample": upsample,
}
