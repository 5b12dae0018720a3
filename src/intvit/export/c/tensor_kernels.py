"""The C text of the kernels that take tensors whole: products, copies, gathers, pixels. Marks: `template`."""

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
