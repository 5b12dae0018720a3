"""The C text of LayerNorm, GELU and softmax, row by row. Formulas: docs/program-format.md; marks: `template`."""

from __future__ import annotations

import numpy as np

from intvit.export.c.steps import Kernel
from intvit.export.c.template import LIMITS, kernel, normalized, numerator, short

_LAYERNORM = """
struct $NAME {
    int32_t channels, normalizer_shift;
$DETAIL
    CONSTANT(int32_t) multiplier;
    CONSTANT(int64_t) bias;
    CONSTANT(uint8_t) shift;
$LIMITS
};

static void $NAME(const struct $NAME *p, const $X *x, $Y *y, int32_t rows)
{
    const int32_t *multiplier = READ(int32_t, p->multiplier);
    const int64_t *bias = READ(int64_t, p->bias);
    const uint8_t *shift = READ(uint8_t, p->shift);
$READS
    int32_t i, c;
    for (i = 0; i < rows; i++, x += p->channels, y += p->channels) {
        int64_t total = 0, squares = 0, root, factor;
        for (c = 0; c < p->channels; c++)
            total += $ENTRY;
$SQUARES
$ROOT
        for (c = 0; c < p->channels; c++) {
            int64_t n = shift_right(($CENTERED) * factor, p->normalizer_shift);
            y[c] = ($Y)rescale(n * multiplier[c] + bias[c], shift[c], p->low, p->high);
        }
    }
}"""
_MEAN = """\
        total = 2 * total + p->channels + ((int64_t)p->channels << 24); /* positive: the division rounds down */
        total = total / (2 * (int64_t)p->channels) - ((int64_t)1 << 23); /* the mean, rounded */
"""
_SQUARES = """\
        for (c = 0; c < p->channels; c++) {
            int64_t v = $TERM;
            squares += v * v;
        }
"""


def layernorm(x: np.dtype, y: np.dtype, method: str, *, newton: bool, channel_shift: bool) -> Kernel:
    """Method exact, ivit (`newton`: by its iteration) or ibert."""
    entry = "(int64_t)x[c] * (1 << channel_shift[c])" if channel_shift else "(int64_t)x[c]"
    centered = f"{entry} - total"
    detail = ["    CONSTANT(uint8_t) channel_shift;"] if channel_shift else []
    if method == "exact":
        squares = _SQUARES.replace("$TERM", entry)
        squares += "        squares = p->channels * squares - total * total;\n"
        centered = f"{entry} * p->channels - total"
    else:
        term = f"shift_right({centered}, p->square_shift)" if method == "ibert" else centered
        squares = _MEAN + _SQUARES.replace("$TERM", term)
    zero, largest = "root", "((int64_t)1 << 40)" if method == "exact" else "INT32_MAX"
    root = "        root = square_root(squares);\n"
    if method == "ibert":
        detail.append("    int32_t square_shift;")
        root = "        root = square_root(squares) << p->square_shift;\n"
    if newton:
        detail.append("    int32_t newton_steps;")
        root = "        root = 65536;\n        for (c = 0; c < p->newton_steps; c++)\n"
        root += "            root = (root + squares / root) >> 1;\n"
        zero = "squares"
    root += f"        factor = {zero} ? {largest} / root : 0;"
    return kernel(
        "_".join(["layernorm", method + "_newton" * newton, *["shifted"] * channel_shift, short(x), short(y)]),
        _LAYERNORM,
        LIMITS=LIMITS,
        DETAIL="\n".join(detail),
        READS="    const uint8_t *channel_shift = READ(uint8_t, p->channel_shift);" if channel_shift else "",
        SQUARES=squares.rstrip("\n"),
        ROOT=root,
        ENTRY=entry,
        CENTERED=centered,
        X=x,
        Y=y,
    )


_LOOKUP = """
struct $NAME {
    int32_t channels, offset; /* offset: place of 0 in the table */
    CONSTANT($Y) table;
};

static void $NAME(const struct $NAME *p, const $X *x, $Y *y, int32_t rows)
{
    const $Y *table = READ($Y, p->table) + p->offset;
    int32_t i, count = rows * p->channels;
    for (i = 0; i < count; i++)
        y[i] = table[x[i]];
}"""


def lookup(x: np.dtype, y: np.dtype) -> Kernel:
    """GELU, but for ShiftGELU: a function of one entry."""
    return kernel(f"gelu_{short(x)}_{short(y)}", _LOOKUP, X=x, Y=y)


_SHIFT_GELU = """
struct $NAME {
    int32_t channels, lowest, x0, n, fraction_bits, limit, reciprocal_bits, sigmoid_bits;
    int32_t multiplier, shift;
$LIMITS
};

/* line: the function of every entry up to the row's maximum, made anew when that changes */
static void $NAME(const struct $NAME *p, const $X *x, $Y *y, $Y *line, int32_t rows)
{
    int32_t i, c, v, held = -1;
    for (i = 0; i < rows; i++, x += p->channels, y += p->channels) {
        int32_t maximum = 0;
        for (c = 0; c < p->channels; c++)
            if (x[c] > maximum)
                maximum = x[c];
        if (maximum != held) {
            int32_t top = maximum < p->limit ? maximum : p->limit;
            int64_t of_zero = shift_exponential(top, p->x0, p->n, p->fraction_bits);
            for (v = p->lowest; v <= maximum; v++) {
                int64_t of_v = shift_exponential(v < top ? top - v : 0, p->x0, p->n, p->fraction_bits);
                int64_t factor = (((int64_t)1 << p->reciprocal_bits) - 1) / (of_v + of_zero);
                int64_t sigmoid = (of_v * factor) >> (p->reciprocal_bits - p->sigmoid_bits);
                line[v - p->lowest] = ($Y)rescale(v * sigmoid * p->multiplier, p->shift, p->low, p->high);
            }
            held = maximum;
        }
        for (c = 0; c < p->channels; c++)
            y[c] = line[x[c] - p->lowest];
    }
}"""


def shift_gelu(x: np.dtype, y: np.dtype) -> Kernel:
    return kernel(f"shift_gelu_{short(x)}_{short(y)}", _SHIFT_GELU, LIMITS=LIMITS, X=x, Y=y)


_SOFTMAX = """
struct $NAME {
    int32_t keys, last; /* last: of the table, which stays what it is from there on */
    CONSTANT($TABLE) table;
};

static void $NAME(const struct $NAME *p, const $X *x, $MASK$Y *y, int32_t rows)
{
    const $TABLE *table = READ($TABLE, p->table);
    int32_t i, j;
    for (i = 0; i < rows; i++, x += p->keys, y += p->keys$NEXT) {
        int32_t maximum = INT32_MIN;
$SUMS
        for (j = 0; j < p->keys; j++)
            if ($HIGHER)
                maximum = x[j];
        for (j = 0; j < p->keys; j++) {
            int32_t distance = maximum - x[j];
            $ENTRY
        }
$REST
    }
}"""


def softmax(x: np.dtype, y: np.dtype, table: np.dtype, normalization: str, bits: int, *, masked: bool) -> Kernel:
    """softmax, or exponential where the normalization is ""."""
    found = "table[distance < p->last ? distance : p->last]"
    counted = f"(mask[j] ? 0 : {found})" if masked else found
    entry, sums, rest = f"y[j] = ($Y){counted};", "", ""
    if normalization:
        sums = "        int64_t sum = 0, factor;"
        entry = f"sum += {counted};"
        rest = f"        factor = {numerator(normalization)} / sum;\n        for (j = 0; j < p->keys; j++) {{\n"
        rest += "            int32_t distance = maximum - x[j];\n"
        rest += f"            y[j] = ($Y){normalized(counted, normalization, bits)};\n        }}"
    return kernel(
        "_".join([normalization or "exponential", str(bits), *["masked"] * masked, short(x), short(table), short(y)]),
        _SOFTMAX,
        SUMS=sums,
        ENTRY=entry,
        REST=rest,
        HIGHER="!mask[j] && x[j] > maximum" if masked else "x[j] > maximum",
        MASK="const uint8_t *mask, " if masked else "",
        NEXT=", mask += p->keys" if masked else "",
        TABLE=table,
        X=x,
        Y=y,
    )


_WEIGHTED_MEAN = """
struct $NAME {
    int32_t channels, keys, shift;
    int64_t multiplier;
$LIMITS
};

static void $NAME(const struct $NAME *p, const int32_t *sums, const $W *weights, $Y *y, int32_t rows)
{
    int32_t i, j;
    for (i = 0; i < rows; i++, sums += p->channels, weights += p->keys, y += p->channels) {
        int64_t total = 0, factor;
        for (j = 0; j < p->keys; j++)
            total += weights[j];
        factor = p->multiplier / total;
        for (j = 0; j < p->channels; j++)
            y[j] = ($Y)rescale(sums[j] * factor, p->shift, p->low, p->high);
    }
}"""


def weighted_mean(weights: np.dtype, y: np.dtype) -> Kernel:
    return kernel(f"weighted_mean_{short(weights)}_{short(y)}", _WEIGHTED_MEAN, LIMITS=LIMITS, W=weights, Y=y)
