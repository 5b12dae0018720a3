"""The C text of the kernels that take tensors whole: products, copies, gathers, pixels, labels. Marks: `template`."""

from __future__ import annotations

import numpy as np

from intvit.export.c.steps import Kernel
from intvit.export.c.template import kernel, short

_MATMUL = """
struct $NAME {
    int32_t batches, heads, rows, columns, inner;
    int32_t a[4], b[4]; /* entries to the next batch, head, row (of b: column) and inner entry */
};

static void $NAME(const struct $NAME *p, const $A *a, const $B *b, int32_t *y)
{
    int32_t g, h, i, j, k;
    for (g = 0; g < p->batches; g++)
        for (h = 0; h < p->heads; h++)
            for (i = 0; i < p->rows; i++)
                for (j = 0; j < p->columns; j++) {
                    const $A *row = a + g * p->a[0] + h * p->a[1] + i * p->a[2];
                    const $B *column = b + g * p->b[0] + h * p->b[1] + j * p->b[2];
                    int32_t sum = 0;
                    for (k = 0; k < p->inner; k++)
                        sum += (int32_t)row[k * p->a[3]] * column[k * p->b[3]];
                    *y++ = sum;
                }
}"""


def matmul(a: np.dtype, b: np.dtype) -> Kernel:
    return kernel(f"matmul_{short(a)}_{short(b)}", _MATMUL, A=a, B=b)


_COPY = """
struct $NAME {
    int32_t rank, shape[$RANK], from[$RANK], to[$RANK]; /* from, to: entries to the next one along an axis */
};

static void $NAME(const struct $NAME *p, const $X *x, $Y *y)
{
    int32_t at[$RANK] = {0}, source = 0, target = 0, axis, i, inner = p->shape[p->rank - 1];
    do {
        for (i = 0; i < inner; i++)
            y[target + i * p->to[p->rank - 1]] = ($Y)x[source + i * p->from[p->rank - 1]];
        for (axis = p->rank - 2; axis >= 0; axis--) {
            source += p->from[axis];
            target += p->to[axis];
            if (++at[axis] < p->shape[axis])
                break;
            source -= p->from[axis] * p->shape[axis];
            target -= p->to[axis] * p->shape[axis];
            at[axis] = 0;
        }
    } while (axis >= 0);
}"""
COPY_RANK = "16"  # of the format's tensors, at most


def copy(x: np.dtype, y: np.dtype) -> Kernel:
    """Entries from one strided view to another."""
    return kernel(f"copy_{short(x)}_{short(y)}", _COPY, RANK=COPY_RANK, X=x, Y=y)


_GATHER = """
struct $NAME {
    int32_t outer, count, from, inner; /* from: entries of x's axis */
    CONSTANT(int32_t) index;
};

static void $NAME(const struct $NAME *p, const $X *x, $X *y)
{
    const int32_t *index = READ(int32_t, p->index);
    size_t bytes = (size_t)p->inner * sizeof *y;
    int32_t i, j;
    for (i = 0; i < p->outer; i++, x += p->from * p->inner)
        for (j = 0; j < p->count; j++, y += p->inner) {
            if (index[j] < 0)
                memset(y, 0, bytes);
            else
                memcpy(y, x + index[j] * p->inner, bytes);
        }
}"""


def gather(x: np.dtype) -> Kernel:
    return kernel(f"gather_{short(x)}", _GATHER, X=x)


_PIXELS = """
struct $NAME {
    int32_t channels, pixels;
    CONSTANT($Y) table;
};

static void $NAME(const struct $NAME *p, const uint8_t *image, $Y *y)
{
    const $Y *table = READ($Y, p->table);
    int32_t c, i;
    for (c = 0; c < p->channels; c++, table += 256)
        for (i = 0; i < p->pixels; i++)
            *y++ = table[*image++];
}"""


def pixels(y: np.dtype) -> Kernel:
    """quantize_input alone."""
    return kernel(f"pixels_{short(y)}", _PIXELS, Y=y)


_UPSAMPLE = """
struct $NAME {
    int32_t classes, height, width, factor;
    int32_t x[3]; /* entries to the next class, row and column */
};

/* line: a row between two of x, times 2 factor; the sums of scores below 2^31 / (2 factor)^2 fit */
static void $NAME(const struct $NAME *p, const $X *x, int32_t *y, int32_t *line)
{
    int32_t unit = 2 * p->factor, row, column, j, k;
    for (row = 0; row < p->height * p->factor; row++) {
        int32_t shifted = 2 * row + 1 + p->factor, n = shifted % unit, last = (p->height - 1) * p->x[1];
        int32_t below = shifted / unit * p->x[1], above = below > 0 ? below - p->x[1] : 0;
        below = below < last ? below : last;
        for (j = 0; j < p->width; j++)
            for (k = 0; k < p->classes; k++) {
                const $X *at = x + k * p->x[0] + j * p->x[2];
                line[j * p->classes + k] = (unit - n) * at[above] + n * at[below];
            }
        for (column = 0; column < p->width * p->factor; column++) {
            int32_t place = 2 * column + 1 + p->factor, m = place % unit;
            int32_t second = place / unit, first = second > 0 ? second - 1 : 0;
            const int32_t *left = line + first * p->classes;
            const int32_t *right = line + (second < p->width ? second : p->width - 1) * p->classes;
$PIXEL
        }
    }
}"""
_SUM = "(unit - m) * left[k] + m * right[k]"
_SCORES = f"""\
            for (k = 0; k < p->classes; k++)
                y[(k * p->height * p->factor + row) * p->width * p->factor + column] = {_SUM};"""
_LABELS = f"""\
            int32_t best = 0, most = INT32_MIN;
            for (k = 0; k < p->classes; k++) {{
                int32_t score = {_SUM};
                if (score > most) {{
                    most = score;
                    best = k;
                }}
            }}
            *y++ = best;"""


def upsample(x: np.dtype, *, labels: bool) -> Kernel:
    """Enlarged scores, or the class of the highest one, of which none is stored."""
    name = f"{'upsampled_labels' if labels else 'upsample'}_{short(x)}"
    return kernel(name, _UPSAMPLE, X=x, PIXEL=_LABELS if labels else _SCORES)


_ARGMAX = """
struct $NAME {
    int32_t classes, height, width;
    int32_t x[3]; /* entries to the next class, row and column */
};

static void $NAME(const struct $NAME *p, const $X *x, $Y *y)
{
    int32_t i, j, k;
    for (i = 0; i < p->height; i++)
        for (j = 0; j < p->width; j++) {
            const $X *at = x + i * p->x[1] + j * p->x[2];
            int32_t best = 0;
            for (k = 1; k < p->classes; k++)
                if (at[k * p->x[0]] > at[best * p->x[0]])
                    best = k;
            *y++ = ($Y)best;
        }
}"""


def argmax(x: np.dtype, y: np.dtype) -> Kernel:
    return kernel(f"argmax_{short(x)}_{short(y)}", _ARGMAX, X=x, Y=y)
