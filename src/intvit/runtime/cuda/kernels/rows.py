"""Operators on rows one at a time, for what no product's kernel takes along: softmax, means, GELU by the row's maximum,
requantize, add, tables, gathers, and patches of pixels.
"""

import triton
import triton.language as tl

from intvit.runtime.cuda.kernels.integers import add as scaled_sum
from intvit.runtime.cuda.kernels.integers import quotient, round_shift
from intvit.runtime.cuda.kernels.integers import requantize as scaled


@triton.jit(do_not_specialize=["M"])
def requantize(
    x, multiplier, shift, out, M, x_row, C: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr, BM: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """x [M, C] of at most 32 bits -> out [M, C]; multiplier and shift [C]."""
    rows, channels = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (rows[:, None] < M) & (channels[None, :] < C)
    v = tl.load(x + rows[:, None] * x_row + channels[None, :], mask=inside, other=0)
    m = tl.load(multiplier + channels, mask=channels < C, other=0)[None, :]
    e = tl.load(shift + channels, mask=channels < C, other=1)[None, :]
    y = tl.minimum(tl.maximum(scaled(v, m, e), LOW), TOP)
    tl.store(out + rows[:, None] * C + channels[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])
def add(
    a, b, multiplier_a, multiplier_b, shift, out, M, a_row, rows_of_image, b_rows, b_image, b_row,
    C: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """a [M, C] and b [b_rows, C] of every image, repeated, -> out [M, C]."""
    rows, channels = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (rows[:, None] < M) & (channels[None, :] < C)
    other = rows // rows_of_image * b_image + rows % rows_of_image % b_rows * b_row
    v = tl.load(a + rows[:, None] * a_row + channels[None, :], mask=inside, other=0)
    w = tl.load(b + other[:, None] + channels[None, :], mask=inside, other=0)
    m = tl.load(multiplier_a + channels, mask=channels < C, other=0)[None, :]
    m_b = tl.load(multiplier_b + channels, mask=channels < C, other=0)[None, :]
    e = tl.load(shift + channels, mask=channels < C, other=1)[None, :]
    y = tl.minimum(tl.maximum(scaled_sum(v, w, m, m_b, e), LOW), TOP)
    tl.store(out + rows[:, None] * C + channels[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M"])
def look_up(
    x, table, out, M, x_row, C: tl.constexpr, TABLES: tl.constexpr, LOWEST: tl.constexpr, BM: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """out = table[row % TABLES, x - LOWEST] for x [M, C] of 8 bits from LOWEST on; table [TABLES, 256]."""
    rows, channels = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (rows[:, None] < M) & (channels[None, :] < C)
    v = tl.load(x + rows[:, None] * x_row + channels[None, :], mask=inside, other=0).to(tl.int32) - LOWEST
    y = tl.load(table + (rows % TABLES * 256)[:, None] + v, mask=inside, other=0)
    tl.store(out + rows[:, None] * C + channels[None, :], y, mask=inside)


@triton.jit
def gelu_by_maximum(x, table, out, x_row, C: tl.constexpr, BC: tl.constexpr):
    """ShiftGELU of a row of int8: table [128, 256] by max(0, the row's maximum) and x + 128."""
    row = tl.program_id(0)
    largest = tl.zeros((BC,), tl.int32)
    for start in range(0, C, BC):
        channels = start + tl.arange(0, BC)
        v = tl.load(x + row * x_row + channels, mask=channels < C, other=0)
        largest = tl.maximum(largest, v.to(tl.int32))
    line = tl.load(table + tl.max(largest, 0) * 256 + tl.arange(0, 256))
    for start in range(0, C, BC):
        channels = start + tl.arange(0, BC)
        v = tl.load(x + row * x_row + channels, mask=channels < C, other=0).to(tl.int32)
        tl.store(out + row * C + channels, tl.gather(line, v + 128, 0), mask=channels < C)


@triton.jit
def softmax(
    x, table, mask, out, x_row, rows_of_mask, N: tl.constexpr, MASK: tl.constexpr, SOFTMAX: tl.constexpr,
    BITS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One row of N logits: its weights ("deferred") or probabilities; table int32 by the distance from the maximum."""
    row, keys = tl.program_id(0), tl.arange(0, BN)
    largest = tl.full((BN,), -(1 << 15), tl.int32)
    for start in range(0, N, BN):
        n = start + keys
        kept = n < N
        if MASK:
            kept = kept & (tl.load(mask + row % rows_of_mask * N + n, mask=kept, other=1) == 0)
        v = tl.load(x + row * x_row + n, mask=kept, other=0).to(tl.int32)
        largest = tl.maximum(largest, tl.where(kept, v, -(1 << 15)))
    top = tl.max(largest, 0)
    total = tl.zeros((BN,), tl.int64)
    for start in range(0, N, BN):
        n = start + keys
        kept = n < N
        if MASK:
            kept = kept & (tl.load(mask + row % rows_of_mask * N + n, mask=kept, other=1) == 0)
        distance = tl.where(kept, top - tl.load(x + row * x_row + n, mask=kept, other=0).to(tl.int32), 0)
        total += tl.where(kept, tl.load(table + distance), 0).to(tl.int64)
    numerator = tl.full((1,), (1 << 31) - 1 if SOFTMAX == "floor" else (1 << 46) - 1, tl.int64)
    factor = quotient(numerator, tl.maximum(tl.sum(total, 0), 1))
    for start in range(0, N, BN):
        n = start + keys
        kept = n < N
        if MASK:
            kept = kept & (tl.load(mask + row % rows_of_mask * N + n, mask=kept, other=1) == 0)
        distance = tl.where(kept, top - tl.load(x + row * x_row + n, mask=kept, other=0).to(tl.int32), 0)
        weight = tl.where(kept, tl.load(table + distance), 0).to(tl.int64)
        if SOFTMAX == "rounded":
            weight = tl.minimum((weight * factor + (1 << (45 - BITS))) >> (46 - BITS), (1 << BITS) - 1)
        if SOFTMAX == "floor":
            weight = (weight * factor) >> (32 - BITS)
        tl.store(out + row * N + n, weight.to(out.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["multiplier", "shift"])
def weighted_mean(
    sums, weights, out, sums_row, weights_row, multiplier, shift, K: tl.constexpr, D: tl.constexpr, LOW: tl.constexpr,
    TOP: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One row: D sums over K weights, over the sum of the weights, times multiplier / 2^shift."""
    row, channels = tl.program_id(0), tl.arange(0, BD)
    total = tl.zeros((BK,), tl.int64)
    for start in range(0, K, BK):
        n = start + tl.arange(0, BK)
        total += tl.load(weights + row * weights_row + n, mask=n < K, other=0).to(tl.int64)
    factor = quotient(tl.full((1,), 0, tl.int64) + multiplier, tl.sum(total, 0))
    a = tl.load(sums + row * sums_row + channels, mask=channels < D, other=0).to(tl.int64)
    y = tl.minimum(tl.maximum(round_shift(a * factor, shift), LOW), TOP)
    tl.store(out + row * D + channels, y.to(out.dtype.element_ty), mask=channels < D)


@triton.jit(do_not_specialize=["rows"])
def gather(x, index, out, rows, length, taken, INNER: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """x [.., length, INNER] -> out [.., taken, INNER], entry i of an axis from index[i], 0 where that is -1."""
    row, inner = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    source = tl.load(index + row % taken, mask=row < rows, other=-1)
    inside = (row[:, None] < rows) & (inner[None, :] < INNER)
    place = (row // taken * length + source)[:, None] * INNER + inner[None, :]
    v = tl.load(x + place, mask=inside & (source[:, None] >= 0), other=0)
    tl.store(out + row[:, None] * INNER + inner[None, :], v, mask=inside)


@triton.jit(do_not_specialize=["M"])
def patches(
    image, table, out, M, columns, CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    PATCH: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Pixels [B, CHANNELS, HEIGHT, WIDTH] -> rows [M, CHANNELS * PATCH^2], by the channels' tables [CHANNELS, 256]."""
    SIZE: tl.constexpr = PATCH * PATCH
    rows, entries = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (rows[:, None] < M) & (entries[None, :] < CHANNELS * SIZE)
    tokens = (HEIGHT // PATCH) * columns
    top, left = rows % tokens // columns * PATCH, rows % tokens % columns * PATCH
    corner = rows // tokens * (CHANNELS * HEIGHT * WIDTH) + top * WIDTH + left
    channel, y, x = entries // SIZE, entries % SIZE // PATCH, entries % PATCH
    pixel = tl.load(
        image + corner[:, None] + (channel * (HEIGHT * WIDTH) + y * WIDTH + x)[None, :], mask=inside, other=0
    )
    value = tl.load(table + (channel * 256)[None, :] + pixel.to(tl.int32), mask=inside, other=0)
    tl.store(out + rows[:, None] * (CHANNELS * SIZE) + entries[None, :], value, mask=inside)
