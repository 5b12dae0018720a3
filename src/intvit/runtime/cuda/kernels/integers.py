"""Integer arithmetic inside kernels: what docs/program-format.md defines, as Triton functions that every kernel shares.

All take tensors of any shape that broadcast. No floating point but in `integer_root`, which two comparisons repair.
Triton's `//` rounds towards zero: negative numbers are divided by shifts, or by `floor_quotient`.
"""

import triton
import triton.language as tl


@triton.jit
def clamp(x, LOW: tl.constexpr, HIGH: tl.constexpr):
    """x limited to LOW..HIGH, as int32. Both limits fit int32."""
    return tl.minimum(tl.maximum(x, LOW), HIGH).to(tl.int32)


@triton.jit
def round_shift(x, shift):
    """(x + 2^(shift-1)) >> shift of an int64, 1 <= shift <= 62: x / 2^shift rounded half up. The sum fits int64."""
    return (x + (tl.full((1,), 1, tl.int64) << (shift - 1).to(tl.int64))) >> shift.to(tl.int64)


@triton.jit
def requantize(acc, multiplier, shift):
    """(acc * multiplier + 2^(shift-1)) >> shift, int64, unclamped: |acc| <= 2^31, |multiplier| < 2^31, shift 1..53."""
    return round_shift(acc.to(tl.int64) * multiplier.to(tl.int64), shift)


@triton.jit
def high_word(x):
    """floor(x / 2^32) of an int64, as int32: the upper one of two registers, no instruction."""
    return (x >> 32).to(tl.int32)


@triton.jit
def requantize_high(acc, multiplier, shift):
    """`requantize` for 33 <= shift <= 62, in int32: the high word of one product and 32-bit operations.

    2^(shift-1) has no low word then, and floor(floor(x / 2^32) / 2^k) = floor(x / 2^(32+k)). The high word is at most
    2^30 and 2^(shift-33) at most 2^29, so that the sum fits.
    """
    return (high_word(acc.to(tl.int64) * multiplier.to(tl.int64)) + (1 << (shift - 33))) >> (shift - 32)


@triton.jit
def add(a, b, multiplier_a, multiplier_b, shift):
    """(a * multiplier_a + b * multiplier_b + 2^(shift-1)) >> shift, int64: |a| <= 2^31, |b| <= 2^15, shift 1..51."""
    scaled = a.to(tl.int64) * multiplier_a.to(tl.int64) + b.to(tl.int64) * multiplier_b.to(tl.int64)
    return round_shift(scaled, shift)


@triton.jit
def add_high(a, b, multiplier_a, multiplier_b, shift):
    """`add` for 33 <= shift <= 51, in int32, like `requantize_high`: the sum's high word is below 2^30 + 2^14."""
    scaled = a.to(tl.int64) * multiplier_a.to(tl.int64) + b.to(tl.int64) * multiplier_b.to(tl.int64)
    return (high_word(scaled) + (1 << (shift - 33))) >> (shift - 32)


@triton.jit
def quotient(a, b):
    """floor(a / b) as int64, 0 <= a < 2^63, 1 <= b: exact."""
    return a.to(tl.int64) // b.to(tl.int64)


@triton.jit
def floor_quotient(a, b):
    """floor(a / b) as int64 for a of either sign, |a| < 2^63, 1 <= b."""
    a, b = a.to(tl.int64), b + tl.zeros((1,), tl.int64)
    whole = a // b
    return whole - (whole * b > a).to(tl.int64)


@triton.jit
def integer_root(x):
    """floor(sqrt(x)) of an int64 below 2^62: the float64 root is off by one at most, which two comparisons repair."""
    root = tl.sqrt(x.to(tl.float64)).to(tl.int64)
    root -= (root * root > x).to(tl.int64)
    return root + ((root + 1) * (root + 1) <= x).to(tl.int64)


@triton.jit
def look_up(entries, index, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """entries[index] of an index [ROWS, COLUMNS] in 0..S-1 and a table that is loaded: entries [S].

    A gather keeps the index where it is and has the table in shared memory. A load from the table's address would turn
    the index into the layout of a coalesced load, which a table's is not: twice the instructions and the registers.
    """
    return tl.reshape(tl.gather(entries, tl.reshape(index, (ROWS * COLUMNS,)), 0), (ROWS, COLUMNS))
