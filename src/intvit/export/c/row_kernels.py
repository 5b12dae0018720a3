"""The C text of linear layers, requantization and sums by rows. Formulas: docs/program-format.md; marks: `template`."""

from __future__ import annotations

import numpy as np

from intvit.export.c.steps import Kernel
from intvit.export.c.template import SCALE_FIELDS, SCALE_READS, c_type, joined, kernel, scaled, short

_LINEAR = """
struct $NAME {
    int32_t inputs, outputs, stride; /* stride: from one row of x to the next */
    CONSTANT($STORED) weight;
    CONSTANT(int32_t) bias;
$FIELDS
};

static void $NAME(const struct $NAME *p, const $X *x, $OTHER$Y *y, int16_t *wide, int16_t *line, int32_t rows)
{
    const $STORED *weight = READ($STORED, p->weight);
    const int32_t *bias = READ(int32_t, p->bias);
$READS
    int32_t first, i, j, count;
    for (first = 0; first < rows; first += count) {
        count = block_rows(rows - first);
        for (i = 0; i < count; i++)
            $WIDEN_X(x + (first + i) * p->stride, wide + i * p->inputs, p->inputs);
        for (j = 0; j < p->outputs; j++) {
            $WIDEN_W(weight + j * $WEIGHT_ROW, line, p->inputs);
            for (i = 0; i < count; i++) {
                int32_t at = (first + i) * p->outputs + j;
                y[at] = ($Y)$VALUE;
            }
        }
    }
}"""


def linear(x: np.dtype, weight: str, y: np.dtype, last: str, other: np.dtype | None) -> Kernel:
    """y = x W' + bias, then what `last` says: "", requantize or add (of rows of `other`). weight: i8, u8 or i4."""
    sum_ = "dot_i16(wide + i * p->inputs, line, p->inputs) + bias[j]"
    value = {"": sum_, "requantize": scaled(sum_, "j"), "add": joined(sum_, "other[at]", "j")}[last]
    kinds = [short(x), weight, *([short(other)] if other is not None else []), short(y)]
    return kernel(
        "_".join(["linear", *([last] if last else []), *kinds]),
        _LINEAR,
        FIELDS=SCALE_FIELDS[last],
        READS=SCALE_READS[last],
        OTHER=f"const {c_type(other)} *other, " if other is not None else "",
        VALUE=value if last else f"({value})",
        STORED="int8_t" if weight == "i8" else "uint8_t",
        WEIGHT_ROW="((p->inputs + 1) >> 1)" if weight == "i4" else "p->inputs",
        WIDEN_X=f"widen_{short(x)}",
        WIDEN_W=f"widen_{weight}",
        X=x,
        Y=y,
    )


_REQUANTIZE = """
struct $NAME {
    int32_t channels;
$FIELDS
};

static void $NAME(const struct $NAME *p, const $X *x, $Y *y, int32_t rows)
{
$READS
    int32_t i, c;
    for (i = 0; i < rows; i++)
        for (c = 0; c < p->channels; c++, x++)
            *y++ = ($Y)$VALUE;
}"""


def requantize(x: np.dtype, y: np.dtype) -> Kernel:
    marks = {"FIELDS": SCALE_FIELDS["requantize"], "READS": SCALE_READS["requantize"], "VALUE": scaled("*x", "c")}
    return kernel(f"requantize_{short(x)}_{short(y)}", _REQUANTIZE, **marks, X=x, Y=y)


_ADD = """
struct $NAME {
    int32_t channels;
$FIELDS
};

static void $NAME(const struct $NAME *p, const $A *a, const $B *b, $Y *y, int32_t rows)
{
$READS
    int32_t i, c;
    for (i = 0; i < rows; i++)
        for (c = 0; c < p->channels; c++, a++, b++)
            *y++ = ($Y)$VALUE;
}"""


def add(a: np.dtype, b: np.dtype, y: np.dtype) -> Kernel:
    marks = {"FIELDS": SCALE_FIELDS["add"], "READS": SCALE_READS["add"], "VALUE": joined("*a", "*b", "c")}
    return kernel(f"add_{short(a)}_{short(b)}_{short(y)}", _ADD, **marks, A=a, B=b, Y=y)


_ADD_REPEATED = """
struct $NAME {
    int32_t repeats, rows, channels;
$FIELDS
};

/* b, of fewer axes, counts for every entry of a's first ones */
static void $NAME(const struct $NAME *p, const $A *a, const $B *b, $Y *y)
{
$READS
    int32_t k, i, c;
    for (k = 0; k < p->repeats; k++)
        for (i = 0; i < p->rows; i++)
            for (c = 0; c < p->channels; c++, a++)
                *y++ = ($Y)$VALUE;
}"""


def add_repeated(a: np.dtype, b: np.dtype, y: np.dtype) -> Kernel:
    value = joined("*a", "b[i * p->channels + c]", "c")
    marks = {"FIELDS": SCALE_FIELDS["add"], "READS": SCALE_READS["add"], "VALUE": value}
    return kernel(f"add_repeated_{short(a)}_{short(b)}_{short(y)}", _ADD_REPEATED, **marks, A=a, B=b, Y=y)


_PATCHES = """
struct $NAME {
    int32_t channels, height, width, patch;
    CONSTANT($Y) table;
};

/* `rows` patches from the one at `first`: quantized pixels */
static void $NAME(const struct $NAME *p, const uint8_t *image, $Y *y, int32_t first, int32_t rows)
{
    const $Y *table = READ($Y, p->table);
    int32_t i, c, v, u, across = p->width / p->patch;
    for (i = first; i < first + rows; i++)
        for (c = 0; c < p->channels; c++)
            for (v = 0; v < p->patch; v++) {
                int32_t line = c * p->height + i / across * p->patch + v;
                for (u = 0; u < p->patch; u++)
                    *y++ = table[256 * c + image[line * p->width + i % across * p->patch + u]];
            }
}"""


def patches(y: np.dtype) -> Kernel:
    """quantize_input and patches in one."""
    return kernel(f"patches_{short(y)}", _PATCHES, Y=y)
