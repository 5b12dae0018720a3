"""Integers of 62 bits in ONNX graphs of int32: products, sums, shifts, quotients and roots, for engines without int64.

Only these int32 operators are used, since OpenVINO's CPU plugin (2026.4) has them exact: Add, Sub and Mul modulo 2^32,
Max, Min, BitwiseAnd, and Div where its result is a whole number of at most 24 bits. Its other divisions, its shifts to
the right, Clip, comparisons and sums beyond 2^24 go through float32. A shift to the right is therefore a mask and Div.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from intvit.runtime.onnx.builder import Body

LIMB = 31  # bits of a low limb
SIGN, REST = -(2**31), 2**31 - 1
FLOAT_BITS = 24  # of whole numbers that float32 holds
Operand = str | np.ndarray | int  # a value of the graph, or a constant


@dataclass(frozen=True)
class Wide:
    """high * 2^31 + low, with low from 0 to 2^31 - 1 and high in int32: names of values in the graph."""

    high: str
    low: str


def constant(f: Body, value: Operand) -> str:
    return value if isinstance(value, str) else f.constant(np.asarray(value), "int32")


def binary(f: Body, kind: str, a: Operand, b: Operand) -> str:
    return f.op(kind, constant(f, a), constant(f, b))


def shift_right(f: Body, x: str, shift: np.ndarray | int, bits: int = 32) -> str:
    """x >> shift, towards minus infinity, for shifts of 0 to 30; x has `bits`, its sign included.

    What the shift drops is masked away, so that Div is exact; above 24 bits in two parts.
    """
    shift = np.asarray(shift, np.int64)
    divisor, mask = 1 << shift, -(1 << shift)
    if bits - int(shift.min()) <= FLOAT_BITS:
        return binary(f, "Div", binary(f, "BitwiseAnd", x, mask), divisor)
    parts = [binary(f, "Div", binary(f, "BitwiseAnd", x, mask & half), divisor) for half in (0xFFFF, ~0xFFFF)]
    return f.op("Add", *parts)


def negative(f: Body, x: str) -> str:
    """1 where x < 0, else 0."""
    return binary(f, "Div", binary(f, "BitwiseAnd", x, SIGN), SIGN)


def multiply(f: Body, x: Operand, y: Operand) -> Wide:
    """The product of x in [-2^30, 2^30) and any int32 y.

    x = a * 2^15 + b and y = c * 2^16 + d with b, d >= 0. With U = a d + (b d >> 15) and V = b c + (U >> 1), all of them
    inside int32, the product is (a c + (V >> 15)) * 2^31 + (V mod 2^15) * 2^16 + (U mod 2) * 2^15 + (b d mod 2^15).
    """
    (a, b), (c, d) = _halves(f, x, 15), _halves(f, y, 16)
    bd = binary(f, "Mul", b, d)
    u = f.op("Add", binary(f, "Mul", a, d), shift_right(f, bd, 15))
    v = f.op("Add", binary(f, "Mul", b, c), shift_right(f, u, 1))
    high = f.op("Add", binary(f, "Mul", a, c), shift_right(f, v, 15))
    low = binary(f, "Mul", binary(f, "BitwiseAnd", v, 2**15 - 1), 2**16)
    middle = binary(f, "Mul", binary(f, "BitwiseAnd", u, 1), 2**15)
    return Wide(high, f.op("Add", f.op("Add", low, middle), binary(f, "BitwiseAnd", bd, 2**15 - 1)))


def multiply_any(f: Body, x: str, y: Operand) -> Wide:
    """The product of any two int32, below 2^61: twice that of x >> 1, and y once more where x is odd."""
    half = multiply(f, shift_right(f, x, 1), y)
    once = binary(f, "Mul", binary(f, "BitwiseAnd", x, 1), y)
    return add(f, add(f, half, half), widened(f, once))


def _halves(f: Body, x: Operand, bits: int) -> tuple[Operand, Operand]:
    if isinstance(x, str):
        return shift_right(f, x, bits), binary(f, "BitwiseAnd", x, 2**bits - 1)
    whole = np.asarray(x, np.int64)
    return whole >> bits, whole & (2**bits - 1)


def widened(f: Body, x: str) -> Wide:
    """An int32 value."""
    return Wide(binary(f, "Mul", negative(f, x), -1), binary(f, "BitwiseAnd", x, REST))


def limbs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """High and low limb of constants."""
    whole = np.array(values, object)
    return np.array(whole >> LIMB, np.int64), np.array(whole & REST, np.int64)


def add(f: Body, x: Wide, y: Wide | np.ndarray | int) -> Wide:
    """x + y."""
    high, low = (y.high, y.low) if isinstance(y, Wide) else limbs(np.array(y, object))
    total = binary(f, "Add", x.low, low)  # modulo 2^32: its sign is the carry
    return Wide(f.op("Add", binary(f, "Add", x.high, high), negative(f, total)), binary(f, "BitwiseAnd", total, REST))


def subtract(f: Body, x: Wide, y: Wide) -> Wide:
    """x - y."""
    low = f.op("Sub", x.low, y.low)
    high = f.op("Sub", f.op("Sub", x.high, y.high), negative(f, low))
    return Wide(high, binary(f, "BitwiseAnd", low, REST))


def scaled(f: Body, x: Wide, factor: int) -> Wide:
    """x * factor, 0 < factor < 2^30."""
    low = multiply(f, factor, x.low)
    return Wide(f.op("Add", binary(f, "Mul", x.high, factor), low.high), low.low)


def shifted(f: Body, x: Wide, shift: np.ndarray | int) -> str:
    """x >> shift modulo 2^32, hence exact where it fits int32, for shifts of 0 to 61, each channel its own."""
    shift = np.asarray(shift, np.int64)
    high = x.high
    if (shift > LIMB).any():
        high = shift_right(f, high, np.maximum(shift - LIMB, 0))
    if (shift < LIMB).any():
        left = 1 << np.clip(LIMB - shift, 0, LIMB)
        high = binary(f, "Mul", high, np.where(left == 2**31, SIGN, left))  # equal modulo 2^32
        high = f.op("Add", high, _low_part(f, x.low, shift))
    return high


def _low_part(f: Body, low: str, shift: np.ndarray) -> str:
    """low >> shift, 0 from 31 on."""
    kept = binary(f, "BitwiseAnd", low, np.where(shift < LIMB, REST, 0))
    return shift_right(f, kept, np.minimum(shift, 30))


def row_sum(f: Body, x: str, size: int, largest: int, *, signed: bool) -> list[tuple[str, int]]:
    """Sums over the last axis of `size` entries, |x| <= largest, as parts (sum, weight 2^k) that float32 holds."""
    if size * largest <= 2**FLOAT_BITS:
        return [(f.over_rows("ReduceSum", x), 1)]
    width = FLOAT_BITS - (size - 1).bit_length()
    bits, parts = largest.bit_length() + signed, []
    for start in range(0, bits, width):
        part = shift_right(f, x, start) if start else x
        if start + width < bits:  # the last part keeps the sign
            part = binary(f, "BitwiseAnd", part, 2**width - 1)
        parts.append((f.over_rows("ReduceSum", part), 1 << start))
    return parts


def joined(f: Body, parts: Sequence[tuple[str, int]]) -> str:
    """The sum of parts, where it fits int32."""
    total, weight = parts[0]
    assert weight == 1
    for part, weight in parts[1:]:
        total = f.op("Add", total, binary(f, "Mul", part, weight))
    return total


def joined_wide(f: Body, parts: Sequence[tuple[str, int]]) -> Wide:
    """The sum of parts that are not negative."""
    total = widened(f, parts[0][0])
    for part, weight in parts[1:]:
        total = add(f, total, multiply(f, part, weight))
    return total


def quotient(f: Body, numerator: int | str, divisor: Operand, groups: Sequence[int]) -> list[str]:
    """floor(numerator / divisor) bit by bit, as one value for each group of bits, the highest first.

    numerator: a constant or an int32 value, not negative. divisor: 1 to 2^31 - 1. groups: how many bits of the quotient
    go into each value; those above them must be 0.
    """
    d = constant(f, divisor)
    total = sum(groups)
    if isinstance(numerator, int):  # what is above the quotient's bits is less than the divisor: a rest already
        rest = binary(f, "Add", binary(f, "Mul", d, 0), numerator >> total)
    else:
        rest = shift_right(f, numerator, total)
    values, position = [], total
    for group in groups:
        missing = None  # 1 for every bit of the quotient that is 0
        for _ in range(group):
            position -= 1
            # 2 rest + bit - d, in an order that stays inside int32
            trial = f.op("Add", binary(f, "Sub", rest, d), rest)
            if isinstance(numerator, str):
                trial = f.op("Add", trial, _bit(f, numerator, position))
            elif numerator >> position & 1:
                trial = binary(f, "Add", trial, 1)
            below = negative(f, trial)
            rest = f.op("Add", trial, binary(f, "Mul", below, d))
            missing = below if missing is None else f.op("Add", f.op("Add", missing, missing), below)
        assert missing is not None
        values.append(binary(f, "Sub", 2**group - 1, missing))
    return values


def _bit(f: Body, x: str, position: int) -> str:
    return binary(f, "Div", binary(f, "BitwiseAnd", x, 1 << position), 1 << position)


def square_root(f: Body, n: Wide, bits: int) -> str:
    """floor(sqrt(n)) for 0 <= n < 2^bits, bits <= 56, two digits of n and one of the root at a time."""
    root = rest = binary(f, "Mul", n.low, 0)
    for position in reversed(range(0, bits, 2)):
        pair = [_bit(f, n.low, p) if p < LIMB else _bit(f, n.high, p - LIMB) for p in (position, position + 1)]
        digits = f.op("Add", pair[0], f.op("Add", pair[1], pair[1]))
        rest = f.op("Add", binary(f, "Mul", rest, 4), digits)
        trial = binary(f, "Add", binary(f, "Mul", root, 4), 1)
        difference = f.op("Sub", rest, trial)
        below = negative(f, difference)
        rest = f.op("Add", difference, f.op("Mul", below, trial))
        root = f.op("Sub", binary(f, "Add", f.op("Add", root, root), 1), below)
    return root
