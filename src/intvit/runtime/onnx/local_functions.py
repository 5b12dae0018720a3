"""The bodies of the local functions: each operator of docs/program-format.md in standard ONNX operators on integers.

A body gets the names of its parameters and returns the name of its result. What onnxruntime (1.31) forces: int64 Clip,
Max and Min are wrong beyond 2^31 (values are clamped as int32, or by comparison); int64 ReduceSum is inexact from 2^53
on (a matrix product with ones is not); there is no arithmetic shift (an offset makes the value unsigned first); a
division by 0 raises; products of int8 by int8 are slow, and of uint8 by int8 saturate on CPUs without VNNI (both
factors are unsigned, with a zero point).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from intvit.program import Value, container, limits
from intvit.runtime.onnx.builder import Body

Write = Callable[..., str]


@dataclass(frozen=True)
class Clamp:
    """How a rounding shift ends. `wide`: its value may leave int32; `needed`: it may leave the output's width."""

    output: Value
    wide: bool
    needed: bool

    @property
    def suffix(self) -> str:
        """Names the variant: s8, u8, s32_wide, ..."""
        ends = ("_wide" if self.wide else "") + ("" if self.needed else "_inside")
        return f"{'s' if self.output.signed else 'u'}{self.output.bits}{ends}"

    def apply(self, f: Body, x: str) -> str:
        """x int64 (wide) or int32 -> the output's type, clamped."""
        low, high = limits(self.output.bits, self.output.signed)
        if self.needed and self.wide:
            for bound, comparison in ((low, "Less"), (high, "Greater")):
                limit = f.constant(bound)
                x = f.op("Where", f.op(comparison, x, limit), limit, x)
        elif self.needed:
            x = f.op("Clip", x, f.constant(low, "int32"), f.constant(high, "int32"))
        return f.cast(x, container(self.output.bits, self.output.signed))


def shifted(f: Body, x: str, offset: str, shift: str, zero: str, dtype: str) -> str:
    """(x + 2^(shift-1)) >> shift for int64 x: offset = 2^(shift-1) + zero * 2^shift makes it a non-negative uint64."""
    unsigned = f.op("Add", f.cast(x, "uint64"), offset)
    return f.op("Sub", f.cast(f.op("BitShift", unsigned, shift, direction="RIGHT"), dtype), zero)


def rounding_shift(f: Body, x: str, offset: str, shift: str, zero: str, clamp: Clamp) -> str:
    """clamp((x + 2^(shift-1)) >> shift) for int64 x."""
    return clamp.apply(f, shifted(f, x, offset, shift, zero, "int64" if clamp.wide else "int32"))


def row_sum(f: Body, x: str, size: int) -> str:
    """Exact sums of int64 rows of `size`, which may exceed 2^53."""
    return f.op("MatMul", x, f.constant(np.ones((size, 1), np.int64)))


def look_up(f: Body, table: str, index: str, shape: str) -> str:
    """table[index] in `shape`, that of the index. Flat, for there GatherElements takes a sixth of Gather's time."""
    flat = f.op("Reshape", index, f.constant([-1]))
    return f.op("Reshape", f.op("GatherElements", table, flat, axis=0), shape)


def quantize_input(f: Body, image: str, table: str, start: str, shape: str) -> str:
    """A table of 256 entries for each channel; `start` is where a channel's entries begin."""
    return look_up(f, table, f.op("Add", f.cast(image, "int32"), start), shape)


def enlarged(
    f: Body, x: str, first: str, second: str, first_weight: str, second_weight: str, axis: int, output: str
) -> str:
    """first_weight * x[first] + second_weight * x[second] along an axis, int32: one axis of `upsample`."""
    parts = [
        f.op("Mul", f.op("Gather", x, index, axis=axis), weight)
        for index, weight in ((first, first_weight), (second, second_weight))
    ]
    return f.op("Add", *parts, output=output)


def patches(f: Body, image: str, tiles: str, rows: str) -> str:
    """Patches in row-major order, inside a patch (channel, y, x)."""
    x = f.op("Transpose", f.op("Reshape", image, tiles), perm=[0, 2, 4, 1, 3, 5])
    return f.op("Reshape", x, rows)


def constant(f: Body, value: str, shape: str) -> str:
    """The same value for every image of the batch."""
    return f.op("Expand", value, shape)


def gather_or_zero(axis: int) -> Write:
    def write(f: Body, x: str, index: str, keep: str) -> str:
        """Entries by index along an axis; keep is 0 where the entry is zero instead."""
        return f.op("Mul", f.op("Gather", x, index, axis=axis), keep)

    return write


def operand(f: Body, x: str, dtype: np.dtype) -> tuple[str, str]:
    """An 8-bit operand of a matrix product as uint8, and its zero point: int8 x is x XOR 128, read as uint8, - 128."""
    if dtype == np.uint8:
        return x, f.constant(0, "uint8")
    if f.opset < 18:  # no bitwise operators yet
        return f.cast(f.op("Add", f.cast(x, "int32"), f.constant(128, "int32")), "uint8"), f.constant(128, "uint8")
    return f.cast(f.op("BitwiseXor", x, f.constant(-128, "int8")), "uint8"), f.constant(128, "uint8")


def linear(x_type: np.dtype) -> Write:
    def write(f: Body, x: str, weight: str, bias: str) -> str:
        """x times weight plus bias; weight [K, N] is stored as uint8 with zero point 128."""
        a, zero = operand(f, x, x_type)
        return f.op("Add", f.op("MatMulInteger", a, weight, zero, f.constant(128, "uint8")), bias)

    return write


def matmul(a_type: np.dtype, b_type: np.dtype, transpose_b: bool, rank: int) -> Write:
    def write(f: Body, a: str, b: str) -> str:
        """The product of two values."""
        if transpose_b:
            b = f.op("Transpose", b, perm=[*range(rank - 2), rank - 1, rank - 2])
        b, zero = operand(f, b, b_type)
        if a_type.itemsize == 1:
            a, a_zero = operand(f, a, a_type)
            return f.op("MatMulInteger", a, b, a_zero, zero)
        wide = f.cast(a, "uint32")  # not negative: 256 * high + low
        eight, zero_a = f.constant(8, "uint32"), f.constant(0, "uint8")
        shifted_down = f.op("BitShift", wide, eight, direction="RIGHT")
        high, back = f.cast(shifted_down, "uint8"), f.op("BitShift", shifted_down, eight, direction="LEFT")
        low = f.cast(f.op("Sub", f.cast(wide, "int32"), f.cast(back, "int32")), "uint8")
        upper = f.op("Mul", f.op("MatMulInteger", high, b, zero_a, zero), f.constant(256, "int32"))
        return f.op("Add", upper, f.op("MatMulInteger", low, b, zero_a, zero))

    return write


def requantize(clamp: Clamp) -> Write:
    def write(f: Body, x: str, multiplier: str, offset: str, shift: str, zero: str) -> str:
        """clamp((x * multiplier + 2^(shift-1)) >> shift)"""
        product = f.op("Mul", f.cast(x, "int64"), multiplier)
        return rounding_shift(f, product, offset, shift, zero, clamp)

    return write


def add(clamp: Clamp) -> Write:
    def write(f: Body, a: str, b: str, multiplier_a: str, multiplier_b: str, offset: str, shift: str, zero: str) -> str:
        """clamp((a * multiplier_a + b * multiplier_b + 2^(shift-1)) >> shift)"""
        products = [f.op("Mul", f.cast(x, "int64"), m) for x, m in ((a, multiplier_a), (b, multiplier_b))]
        return rounding_shift(f, f.op("Add", *products), offset, shift, zero, clamp)

    return write


def softmax(normalization: str, bits: int, dtype: np.dtype, lowest: int) -> Write:
    def write(f: Body, x: str, table: str, shape: str, mask: str | None = None) -> str:
        """Exponentials from a table over max - x, over their sum: one reciprocal for each row."""
        value = table_of_distance(f, x, table, shape, lowest, mask, np.dtype(np.int64))
        numerator, shift = (2**46 - 1, 46 - bits) if normalization == "rounded" else (2**31 - 1, 32 - bits)
        total = f.cast(f.over_rows("ReduceSum", f.cast(value, "int32")), "int64")  # proven < 2^31
        product = f.op("Mul", value, f.op("Div", f.constant(numerator), total))
        if normalization == "rounded":
            product = f.op("Add", product, f.constant(2 ** (shift - 1)))
        unsigned = f.op("BitShift", f.cast(product, "uint64"), f.constant(shift, "uint64"), direction="RIGHT")
        result = f.cast(unsigned, "int32")
        if normalization == "rounded":
            result = f.op("Clip", result, "", f.constant(2**bits - 1, "int32"))
        return f.cast(result, dtype)

    return write


def exponential(dtype: np.dtype, lowest: int) -> Write:
    def write(f: Body, x: str, table: str, shape: str, mask: str | None = None) -> str:
        """Weights from a table over max - x."""
        return table_of_distance(f, x, table, shape, lowest, mask, dtype)

    return write


def table_of_distance(f: Body, x: str, table: str, shape: str, lowest: int, mask: str | None, dtype: np.dtype) -> str:
    """table[max - x]; logits where the mask is true count neither in the maximum nor in the result."""
    x = f.cast(x, "int32")
    if mask is not None:
        x = f.op("Where", mask, f.constant(lowest, "int32"), x)
    value = look_up(f, table, f.op("Sub", f.over_rows("ReduceMax", x), x), shape)
    if mask is None:
        return value
    return f.op("Mul", value, f.cast(f.op("Not", mask), dtype))


def weighted_mean(clamp: Clamp, total_type: str) -> Write:
    def write(f: Body, sums: str, weights: str, multiplier: str, offset: str, shift: str, zero: str) -> str:
        """Sums of weighted entries over the sum of their weights."""
        total = f.cast(f.over_rows("ReduceSum", f.cast(weights, total_type)), "int64")
        product = f.op("Mul", f.cast(sums, "int64"), f.op("Div", multiplier, total))
        return rounding_shift(f, product, offset, shift, zero, clamp)

    return write


def gelu_table(half: int) -> Write:
    def write(f: Body, x: str, table: str, shape: str) -> str:
        """A table over x."""
        return look_up(f, table, f.op("Add", f.cast(x, "int32"), f.constant(half, "int32")), shape)

    return write


def gelu_row_table(half: int) -> Write:
    def write(f: Body, x: str, table: str, shape: str) -> str:
        """A table over the row's maximum, 0 if it is negative, and x."""
        x = f.cast(x, "int32")
        top = f.op("Clip", f.over_rows("ReduceMax", x), f.constant(0, "int32"))
        line = f.op("Add", f.op("Mul", top, f.constant(2 * half, "int32")), f.constant(half, "int32"))
        return look_up(f, table, f.op("Add", x, line), shape)

    return write
