"""LayerNorm's local functions, with the exact integer square root that ONNX lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from intvit.runtime.onnx.builder import Body
from intvit.runtime.onnx.local_functions import Clamp, Write, rounding_shift, row_sum, shifted

ROOT_BITS = 31  # radicands are proven below 2^62
NEWTON_STEPS = 5


def layernorm(attributes: dict[str, Any], size: int, clamp: Clamp) -> Write:
    """`attributes`: of the operator. The parameters: x, multiplier, bias, offset, shift, zero, those of the normalizing
    shift (n_offset, n_shift, n_zero), and channel_shift (as powers of two) if there is one."""
    normalize = {"exact": _exact, "ivit": _ivit, "ibert": _ibert}[attributes["method"]]

    def write(
        f: Body,
        x: str,
        multiplier: str,
        bias: str,
        offset: str,
        shift: str,
        zero: str,
        n_offset: str,
        n_shift: str,
        n_zero: str,
        channel_factor: str | None = None,
    ) -> str:
        """Normalizes rows, then multiplies, adds and shifts to the output for each channel."""
        x = f.cast(x, "int64")
        if channel_factor is not None:
            x = f.op("Mul", x, channel_factor)
        y, reciprocal = normalize(f, x, attributes, size)
        n = shifted(f, f.op("Mul", y, reciprocal), n_offset, n_shift, n_zero, "int64")
        return rounding_shift(f, f.op("Add", f.op("Mul", n, multiplier), bias), offset, shift, zero, clamp)

    return write


def _exact(f: Body, x: str, attributes: dict[str, Any], size: int) -> tuple[str, str]:
    total, channels = row_sum(f, x, size), f.constant(size)
    squares = f.op("Mul", row_sum(f, f.op("Mul", x, x), size), channels)
    root = square_root(f, f.op("Sub", squares, f.op("Mul", total, total)))
    return f.op("Sub", f.op("Mul", x, channels), total), _reciprocal(f, 2**40, root, root)


def _centered(f: Body, x: str, size: int) -> str:
    """x - floor((2S + C) / 2C); the sum is made non-negative first, for Div truncates: |S| < 2^32 * C."""
    offset = 2**32
    total = f.op("Add", f.op("Mul", row_sum(f, x, size), f.constant(2)), f.constant(size + 2 * size * offset))
    mean = f.op("Sub", f.op("Div", total, f.constant(2 * size)), f.constant(offset))
    return f.op("Sub", x, mean)


def _ivit(f: Body, x: str, attributes: dict[str, Any], size: int) -> tuple[str, str]:
    y = _centered(f, x, size)
    squares = row_sum(f, f.op("Mul", y, y), size)
    if attributes["newton_steps"] == 0:
        root = square_root(f, squares)
    else:
        root = f.constant(2**16)
        for _ in range(attributes["newton_steps"]):
            root = f.op("Div", f.op("Add", root, f.op("Div", squares, root)), f.constant(2))
    return y, _reciprocal(f, 2**31 - 1, root, squares)


def _ibert(f: Body, x: str, attributes: dict[str, Any], size: int) -> tuple[str, str]:
    y, shift = _centered(f, x, size), attributes["square_shift"]
    offset = 2**40  # |y| < 2^33
    z = f.op("Div", f.op("Add", y, f.constant(offset)), f.constant(2**shift))
    z = f.op("Sub", z, f.constant(offset >> shift))
    root = f.op("Mul", square_root(f, row_sum(f, f.op("Mul", z, z), size)), f.constant(2**shift))
    return y, _reciprocal(f, 2**31 - 1, root, root)


def _reciprocal(f: Body, numerator: int, root: str, positive: str) -> str:
    """floor(numerator / root), 0 where `positive` is 0."""
    zero = f.op("Equal", positive, f.constant(0))
    value = f.op("Div", f.constant(numerator), f.op("Where", zero, f.constant(1), root))
    return f.op("Where", zero, f.constant(0), value)


def square_root(f: Body, n: str) -> str:
    """floor(sqrt(n)) for 0 <= n < 2^62.

    Newton's iteration from the power of two 2^j with 4^(j-1) <= n < 4^j stays at or above the root; the relative error,
    at most 1 at first, is below 2^-49 after five steps, so that the result is the root or one more.
    """
    radicand = n
    n = f.op("Add", n, f.cast(f.op("Equal", n, f.constant(0)), "int64"))  # no division by 0
    powers = np.int64(1) << (2 * np.arange(ROOT_BITS, dtype=np.int64))
    digits = f.over_rows("ReduceSum", f.cast(f.op("LessOrEqual", f.constant(powers), n), "int32"))
    root = f.op("Gather", f.constant(np.int64(1) << np.arange(ROOT_BITS + 1, dtype=np.int64)), digits, axis=0)
    for _ in range(NEWTON_STEPS):
        root = f.op("Div", f.op("Add", root, f.op("Div", n, root)), f.constant(2))
    too_large = f.op("Greater", f.op("Mul", root, root), radicand)
    return f.op("Sub", root, f.cast(too_large, "int64"))
