"""What the C text of all kernels shares: helpers, marks, and how a sum becomes an output.

Texts are C with a few marks: `$NAME` stands for the kernel's name, other `$` marks for types and expressions,
`CONSTANT(type) field` for a parameter that is an array, `READ(type, field)` for its use, which `source` puts in as a
pointer or as an offset. C99 leaves `>>` of negative numbers to the compiler and `<<` of them undefined, hence
`shift_right`, which compilers turn into one instruction, and products in place of left shifts.
"""

from __future__ import annotations

import re

import numpy as np

from intvit.export.c.steps import ROWS, Kernel

HELPERS: dict[str, str] = {  # each uses earlier ones alone
    "shift_right": """\
/* floor(v / 2^e) */
static int64_t shift_right(int64_t v, int32_t e)
{
    return v >= 0 ? v >> e : ~(~v >> e);
}""",
    "clamp": """\
static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}""",
    "rescale": """\
/* v / 2^e, rounded half up, within low..high */
static int64_t rescale(int64_t v, int32_t e, int64_t low, int64_t high)
{
    return clamp(shift_right(v + ((int64_t)1 << (e - 1)), e), low, high);
}""",
    "square_root": """\
/* floor(sqrt(v)), 0 <= v < 2^62 */
static int64_t square_root(int64_t v)
{
    int64_t root = 0, bit = (int64_t)1 << 60;
    while (bit > v)
        bit >>= 2;
    for (; bit != 0; bit >>= 2) {
        if (v >= root + bit) {
            v -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    return root;
}""",
    "shift_exponential": """\
/* Shiftmax's exponential of -distance */
static int64_t shift_exponential(int64_t distance, int64_t x0, int32_t n, int32_t fraction_bits)
{
    int64_t x = -distance * ((int64_t)1 << fraction_bits), q, r;
    x += shift_right(x, 1) - shift_right(x, 4);
    if (x < n * x0)
        x = n * x0;
    q = x / x0;
    r = x - q * x0;
    return (shift_right(r, 1) - x0) * ((int64_t)1 << (n - q));
}""",
    "block_rows": f"""\
/* how many of `left` rows are worked on at once */
static int32_t block_rows(int32_t left)
{{
    return left < {ROWS} ? left : {ROWS};
}}""",
    "widen_i8": """\
static void widen_i8(const int8_t *x, int16_t *y, int32_t count)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = x[i];
}""",
    "widen_u8": """\
static void widen_u8(const uint8_t *x, int16_t *y, int32_t count)
{
    int32_t i;
    for (i = 0; i < count; i++)
        y[i] = x[i];
}""",
    "widen_i4": """\
/* two to a byte, the first in the low bits */
static void widen_i4(const uint8_t *x, int16_t *y, int32_t count)
{
    int32_t i;
    for (i = 0; i < count >> 1; i++) {
        y[2 * i] = (int16_t)(((x[i] & 15) ^ 8) - 8);
        y[2 * i + 1] = (int16_t)(((x[i] >> 4) ^ 8) - 8);
    }
    if (count & 1)
        y[count - 1] = (int16_t)(((x[count >> 1] & 15) ^ 8) - 8);
}""",
    "dot_i16": """\
static int32_t dot_i16(const int16_t *a, const int16_t *b, int32_t count)
{
    int32_t i, sum = 0;
    for (i = 0; i < count; i++)
        sum += (int32_t)a[i] * b[i];
    return sum;
}""",
    "dot_i32": """\
static int32_t dot_i32(const int32_t *a, const int16_t *b, int32_t count)
{
    int32_t i, sum = 0;
    for (i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}""",
}

LIMITS = "    int64_t low, high;"


def short(dtype: np.dtype) -> str:
    """i8, u16, ..."""
    return f"{dtype.kind}{8 * dtype.itemsize}"


def c_type(dtype: np.dtype) -> str:
    """int8_t, uint16_t, ..."""
    return f"{dtype.name}_t"


def kernel(name: str, text: str, **marks: str | np.dtype) -> Kernel:
    """The text with its marks filled in."""
    for mark, value in {"NAME": name, "ROWS": str(ROWS), **marks}.items():
        text = re.sub(rf"\${mark}\b", value if isinstance(value, str) else c_type(value), text)
    assert "$" not in text, text
    return Kernel(name, text.strip("\n"))


def scaled(sum_: str, channel: str) -> str:
    """The C expression of requantize: what `sum_` becomes in the channel."""
    return f"rescale((int64_t)({sum_}) * multiplier[{channel}], shift[{channel}], p->low, p->high)"


def joined(sum_: str, other: str, channel: str) -> str:
    """That of add, with the residual's or the bias's entry `other`."""
    both = f"(int64_t)({sum_}) * multiplier_a[{channel}] + (int64_t){other} * multiplier_b[{channel}]"
    return f"rescale({both}, shift[{channel}], p->low, p->high)"


def numerator(normalization: str) -> str:
    """Of the softmax's reciprocal."""
    return "(((int64_t)1 << 46) - 1)" if normalization == "rounded" else "INT32_MAX"


def normalized(value: str, normalization: str, bits: int) -> str:
    """The probability of an exponential, an expression in C."""
    if normalization == "rounded":
        return f"rescale({value} * factor, {46 - bits}, 0, {2**bits - 1})"
    return f"(({value} * factor) >> {32 - bits})"


_SHIFT = "    CONSTANT(uint8_t) shift;\n" + LIMITS
SCALE_FIELDS = {
    "": "",
    "requantize": "    CONSTANT(int32_t) multiplier;\n" + _SHIFT,
    "add": "    CONSTANT(int32_t) multiplier_a;\n    CONSTANT(int32_t) multiplier_b;\n    CONSTANT(uint8_t) shift;\n"
    + LIMITS,
}
SCALE_READS = {
    "": "",
    "requantize": """\
    const int32_t *multiplier = READ(int32_t, p->multiplier);
    const uint8_t *shift = READ(uint8_t, p->shift);""",
    "add": """\
    const int32_t *multiplier_a = READ(int32_t, p->multiplier_a), *multiplier_b = READ(int32_t, p->multiplier_b);
    const uint8_t *shift = READ(uint8_t, p->shift);""",
}
