"""The operators of the program on int32 and narrower alone, for engines without 64-bit integers such as OpenVINO.

Equal integers: sums and products beyond 32 bits are kept in two limbs (`wide_integers`). The nodes stand in the graph
itself, without local functions. Operators that are tables or moves are those of the usual form.
"""

from __future__ import annotations

import numpy as np

from intvit.errors import IntVitError
from intvit.program import Value, container, limits
from intvit.runtime.onnx import local_functions as functions
from intvit.runtime.onnx import operators as usual
from intvit.runtime.onnx import wide_integers as wide
from intvit.runtime.onnx.builder import Body
from intvit.runtime.onnx.node_builder import NodeBuilder
from intvit.runtime.onnx.wide_integers import FLOAT_BITS, Wide, binary

FACTOR_BITS, ROOT_BITS = 30, 56  # what `multiply` and `square_root` take
PRODUCT_BITS = 62  # of two limbs, the sign included


def _factor(node: NodeBuilder, what: str, low: int, high: int) -> None:
    """Raises IntVitError unless the proven range suits `multiply`."""
    if low < -(2**FACTOR_BITS) or high >= 2**FACTOR_BITS:
        raise IntVitError(f"{node.operator}: {what} from {low} to {high} has no form in 32 bits; leave out --int32")


def _input(node: NodeBuilder, index: int = 0) -> str:
    """An input as int32, inside the range that `multiply` takes."""
    _factor(node, "an input", *node.bounds.inputs[index])
    return node.graph.body.cast(node.operator.inputs[index], "int32")


def _finish(node: NodeBuilder, x: Wide, shift: np.ndarray) -> None:
    """clamp(x >> shift), the rounding term being part of x, as the operator's output."""
    f, (low, high) = node.graph.body, limits(node.output.bits, node.output.signed)
    intermediates = node.bounds.intermediates
    widest = max(intermediates[name].bits for name in ("product", "sum of products") if name in intermediates)
    if widest > PRODUCT_BITS:
        raise IntVitError(f"{node.operator}: a product of {widest} bits has no form in 32; leave out --int32")
    before = intermediates["before clamp"]
    clamps = before.low < low or before.high > high
    if clamps and node.output.bits > FLOAT_BITS:
        raise IntVitError(f"{node.operator}: a clamp to {node.output.bits} bits has no form in 32; leave out --int32")
    if clamps and (shift < wide.LIMB).any():
        # Beyond this the result is clamped anyway, and inside it shifted values fit int32.
        reach = np.where(shift < wide.LIMB, 1 << np.maximum(node.output.bits + shift - wide.LIMB, 0), 2**30)
        x = Wide(binary(f, "Max", binary(f, "Min", x.high, reach), -reach - 1), x.low)
    result = wide.shifted(f, x, shift)
    if clamps:
        result = binary(f, "Max", binary(f, "Min", result, high), low)
    _output(node, result)


def _output(node: NodeBuilder, result: str) -> None:
    node.graph.body.cast(result, container(node.output.bits, node.output.signed), output=node.operator.output)


def _shift(node: NodeBuilder) -> np.ndarray:
    return np.atleast_1d(node.constants["shift"] if "shift" in node.constants else node.attributes["shift"]).astype(
        np.int64
    )


def _rounding(shift: np.ndarray) -> np.ndarray:
    halves: np.ndarray = np.array(1, object) << (shift.astype(object) - 1)
    return halves


def _requantize(node: NodeBuilder) -> None:
    f, shift = node.graph.body, _shift(node)
    product = wide.multiply(f, _input(node), node.constants["multiplier"])
    _finish(node, wide.add(f, product, _rounding(shift)), shift)


def _add(node: NodeBuilder) -> None:
    f, shift = node.graph.body, _shift(node)
    a, b = _input(node, 0), _input(node, 1)
    missing = len(node.values[0].shape) - len(node.values[1].shape)
    if missing:
        b = f.op("Unsqueeze", b, node.initializer("axes", np.arange(1, missing + 1)))
    products = [wide.multiply(f, x, node.constants[role]) for x, role in ((a, "multiplier_a"), (b, "multiplier_b"))]
    _finish(node, wide.add(f, wide.add(f, *products), _rounding(shift)), shift)


def _linear(node: NodeBuilder) -> None:
    f, x = node.graph.body, node.values[0]
    a, zero = functions.operand(f, node.operator.inputs[0], container(x.bits, x.signed))
    weight = node.initializer("weight", (node.constants["weight"].astype(np.int16) + 128).astype(np.uint8).T)
    product = _product(node, a, zero, weight, f.constant(128, "uint8"), x)
    bias = node.initializer("bias", node.constants["bias"].astype(np.int32))
    f.op("Add", product, bias, output=node.operator.output)


def _product(node: NodeBuilder, a: str, a_zero: str, b: str, b_zero: str, x: Value) -> str:
    """The matrix product of bytes, the inner axis in pieces whose sums float32 holds."""
    f, size = node.graph.body, node.values[0].shape[-1]
    largest = (2 ** (min(x.bits, 8) - x.signed)) * 128
    seen, most = node.bounds.accumulator, 2**FLOAT_BITS
    proven = x.bits <= 8 and seen is not None and -most <= seen.low and seen.high <= most
    length = size if proven else min(size, most // largest)
    total = ""
    for start in range(0, size, length):
        pieces = a, b
        if length < size:
            pieces = _piece(f, a, -1, start, start + length), _piece(f, b, -2, start, start + length)
        part = f.op("MatMulInteger", *pieces, a_zero, b_zero)
        total = f.op("Add", total, part) if total else part
    return total


def _piece(f: Body, x: str, axis: int, start: int, stop: int) -> str:
    return f.op("Slice", x, *(f.constant([value]) for value in (start, stop, axis)))


def _matmul(node: NodeBuilder) -> None:
    f, (a, b) = node.graph.body, node.values
    left, right = node.operator.inputs
    if node.attributes["transpose_b"]:
        rank = len(a.shape) + 1
        right = f.op("Transpose", right, perm=[*range(rank - 2), rank - 1, rank - 2])
    right, zero = functions.operand(f, right, container(b.bits, b.signed))
    left_type = container(a.bits, a.signed)
    if left_type.itemsize == 1:
        left, left_zero = functions.operand(f, left, left_type)
        result = _product(node, left, left_zero, right, zero, a)
    else:  # not negative: 256 * high + low
        whole, none = f.cast(left, "int32"), f.constant(0, "uint8")
        halves = binary(f, "BitwiseAnd", whole, 255), wide.shift_right(f, whole, 8, 17)
        byte = Value(a.shape, 9, False)  # nine bits: the accumulator's proven range is not that of the halves
        low, high = (_product(node, f.cast(half, "uint8"), none, right, zero, byte) for half in halves)
        result = f.op("Add", binary(f, "Mul", high, 256), low)
    f.op("Identity", result, output=node.operator.output)


def _softmax(node: NodeBuilder) -> None:
    f, row = node.graph.body, node.values[0].shape[-1]
    table = usual.exponents(node).astype(np.int64)
    least, largest, bits = int(table[0]), int(table.max()), node.attributes["bits"]
    _factor(node, "an exponential", 0, largest)
    value = functions.table_of_distance(
        f,
        node.operator.inputs[0],
        node.initializer("table", table.astype(np.int32)),
        node.shape(*node.output.shape),
        limits(node.values[0].bits, True)[0],
        node.initializer("mask", node.constants["mask"].astype(np.bool_)) if "mask" in node.constants else None,
        np.dtype(np.int32),
    )
    total = wide.joined(f, wide.row_sum(f, value, row, largest, signed=False))
    if node.attributes["normalization"] == "rounded":
        numerator, shift = 2**46 - 1, 46 - bits
        (reciprocal,) = wide.quotient(f, numerator, total, [_quotient_bits(numerator, least)])
        product = wide.add(f, wide.multiply(f, value, reciprocal), 1 << (shift - 1))
        result = binary(f, "Min", wide.shifted(f, product, shift), 2**bits - 1)
    else:
        numerator = 2**31 - 1
        (reciprocal,) = wide.quotient(f, numerator, total, [_quotient_bits(numerator, least)])
        result = wide.shift_right(f, f.op("Mul", value, reciprocal), 32 - bits)
    _output(node, result)


def _quotient_bits(numerator: int, least: int) -> int:
    return max((numerator // least).bit_length(), 1)


def _weighted_mean(node: NodeBuilder) -> None:
    f, shift, numerator = node.graph.body, _shift(node), int(node.attributes["multiplier"])
    weights, row = node.values[1], node.values[1].shape[-1]
    entries = f.cast(node.operator.inputs[1], "int32")
    total = wide.joined(f, wide.row_sum(f, entries, row, limits(weights.bits, weights.signed)[1], signed=False))
    bits, split = _quotient_bits(numerator, 1), 24  # of 53 bits at most
    parts = wide.quotient(f, numerator, total, [bits] if bits <= split else [bits - split, split])
    product = wide.multiply(f, sums := _input(node), parts[0])
    if bits > split:
        product = wide.add(f, wide.scaled(f, product, 1 << split), wide.multiply(f, sums, parts[1]))
    _finish(node, wide.add(f, product, _rounding(shift)), shift)


def _layernorm(node: NodeBuilder) -> None:
    f, shift, k = node.graph.body, _shift(node), node.attributes["normalizer_shift"]
    x, largest = _input(node), 2 ** (node.values[0].bits - 1)
    if "channel_shift" in node.constants:
        factors = 1 << node.constants["channel_shift"].astype(np.int64)
        x, largest = binary(f, "Mul", x, factors), largest * int(factors.max())
    seen, most = node.bounds.intermediates, 4 * node.values[0].shape[-1] * largest  # of the mean's dividend
    _factor(node, "a sum", -most, most)
    _factor(node, "a centered entry", seen["y"].low, seen["y"].high)
    n = (_exact if node.attributes["method"] == "exact" else _centered)(node, x, largest, k)
    fits = seen["normalized"].low >= -(2**FACTOR_BITS) and seen["normalized"].high < 2**FACTOR_BITS
    product = (wide.multiply if fits else wide.multiply_any)(f, n, node.constants["multiplier"])
    _finish(node, wide.add(f, product, node.constants["bias"].astype(object) + _rounding(shift)), shift)


def _exact(node: NodeBuilder, x: str, largest: int, k: int) -> str:
    """(y * F) >> k of y = C x - S and F = floor(2^40 / R), which is kept as F1 * 2^20 + F0."""
    f, size = node.graph.body, node.values[0].shape[-1]
    total = wide.joined(f, wide.row_sum(f, x, size, largest, signed=True))
    squares = wide.scaled(f, _squares(node, x, largest), size) if size > 1 else _squares(node, x, largest)
    root, positive = _root(node, wide.subtract(f, squares, wide.multiply(f, total, total)), "T")
    upper, lower = (f.op("Mul", part, positive) for part in wide.quotient(f, 2**40, root, [21, 20]))
    y = f.op("Sub", binary(f, "Mul", x, size), total)
    high, low = wide.multiply(f, y, upper), wide.multiply(f, y, lower)
    if k < 20:
        return f.op("Add", binary(f, "Mul", wide.shifted(f, high, 0), 1 << (20 - k)), wide.shifted(f, low, k))
    return wide.shifted(f, wide.add(f, high, wide.widened(f, wide.shifted(f, low, 20))), k - 20)


def _centered(node: NodeBuilder, x: str, largest: int, k: int) -> str:
    """(y * F) >> k of y = x - mean and F = floor((2^31 - 1) / R), of `ivit` and `ibert`."""
    f, size, attributes = node.graph.body, node.values[0].shape[-1], node.attributes
    if attributes.get("newton_steps"):
        raise IntVitError(f"{node.operator}: newton_steps has no form in 32 bits; leave out --int32")
    total = wide.joined(f, wide.row_sum(f, x, size, largest, signed=True))
    offset = 2 * largest  # makes the mean positive
    doubled = binary(f, "Add", f.op("Add", total, total), size + 2 * size * offset)
    (mean,) = wide.quotient(f, doubled, 2 * size, [(offset + largest + 1).bit_length()])
    y = f.op("Sub", x, binary(f, "Sub", mean, offset))
    dropped = attributes.get("square_shift", 0)
    z = wide.shift_right(f, y, dropped) if dropped else y
    root, positive = _root(node, _squares(node, z, (2 * largest >> dropped) + 1), "sum of squares")
    if dropped:
        root = binary(f, "Mul", root, 1 << dropped)
        root = binary(f, "Max", root, 1)
    (reciprocal,) = wide.quotient(f, 2**31 - 1, root, [31])
    return wide.shifted(f, wide.multiply(f, y, f.op("Mul", reciprocal, positive)), k)


def _squares(node: NodeBuilder, x: str, largest: int) -> Wide:
    """The sum of the squares of rows of entries up to `largest`."""
    f, size = node.graph.body, node.values[0].shape[-1]
    if largest**2 < 2**31:
        return wide.joined_wide(f, wide.row_sum(f, f.op("Mul", x, x), size, largest**2, signed=False))
    square = wide.multiply(f, x, x)
    low = wide.joined_wide(f, wide.row_sum(f, square.low, size, 2**31 - 1, signed=False))
    high = wide.joined(f, wide.row_sum(f, square.high, size, largest**2 >> 31, signed=False))
    return Wide(f.op("Add", low.high, high), low.low)


def _root(node: NodeBuilder, n: Wide, name: str) -> tuple[str, str]:
    """The root of n, 1 where it is 0, and 1 where it is not 0."""
    f, bits = node.graph.body, max(node.bounds.intermediates[name].high.bit_length(), 1)
    if bits > ROOT_BITS:
        raise IntVitError(f"{node.operator}: {name} of {bits} bits has no form in 32; leave out --int32")
    root = wide.square_root(f, n, bits + bits % 2)
    return binary(f, "Max", root, 1), binary(f, "Min", root, 1)


OPERATORS = usual.OPERATORS | {
    "linear": _linear,
    "matmul": _matmul,
    "requantize": _requantize,
    "add": _add,
    "layernorm": _layernorm,
    "softmax": _softmax,
    "weighted_mean": _weighted_mean,
}
