"""Linear layers: products of int8 rows on tensor cores, with what follows: requantize, residual add, GELU's table.

`linear` gives rows of channels, `linear_turned` the same numbers with the tokens of a group as the last axis: tensor
cores of compute capability 9 take int8 operands along the summed axis only, and attention sums values over tokens.
"""

import triton
import triton.language as tl

from intvit.runtime.cuda.kernels.integers import add, clamp, look_up, requantize, requantize_high


@triton.jit
def _tile(address, rows, columns, stride, LIMIT, K: tl.constexpr, BK: tl.constexpr, UNSIGNED: tl.constexpr):
    """int8 [rows, columns] of a row-major matrix; 0 outside of it (-128 if UNSIGNED, whose bytes it gives less 128)."""
    inside = rows[:, None] < LIMIT
    if K % BK != 0:
        inside = inside & (columns[None, :] < K)
    tile = tl.load(address + rows[:, None] * stride + columns[None, :], mask=inside, other=0)
    if UNSIGNED:
        tile = (tile ^ 128).to(tl.int8, bitcast=True)
    return tile


@triton.jit
def _products(
    x, weight, rows, channels, x_row, M, N, K: tl.constexpr, UNSIGNED: tl.constexpr, PACKED: tl.constexpr,
    TURNED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """int32 sums over k of x[row, k] * weight[channel, k], [rows, channels] or TURNED.

    PACKED: byte j of a block of BK inputs holds the weights of inputs j (low half) and j + BK / 2.
    """
    acc = tl.zeros((BN, BM) if TURNED else (BM, BN), tl.int32)
    columns = tl.arange(0, BK)
    if PACKED:
        half = tl.arange(0, BK // 2)
        for start in range(0, K, BK):
            place = channels[:, None] * (tl.cdiv(K, BK) * (BK // 2)) + start // 2 + half[None, :]
            pairs = tl.load(weight + place, mask=channels[:, None] < N, other=0)
            low = (pairs << 4).to(tl.int8) >> 4
            a = _tile(x, rows, start + half, x_row, M, K, BK, UNSIGNED)
            b = _tile(x, rows, start + BK // 2 + half, x_row, M, K, BK, UNSIGNED)
            if TURNED:
                acc = tl.dot(low, tl.trans(a), acc, out_dtype=tl.int32)
                acc = tl.dot(pairs >> 4, tl.trans(b), acc, out_dtype=tl.int32)
            else:
                acc = tl.dot(a, tl.trans(low), acc, out_dtype=tl.int32)
                acc = tl.dot(b, tl.trans(pairs >> 4), acc, out_dtype=tl.int32)
    else:
        for start in range(0, K, BK):
            a = _tile(x, rows, start + columns, x_row, M, K, BK, UNSIGNED)
            b = _tile(weight, channels, start + columns, K, N, K, BK, False)
            if TURNED:
                acc = tl.dot(b, tl.trans(a), acc, out_dtype=tl.int32)
            else:
                acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
    return acc


@triton.jit
def _requantized(acc, multiplier, shift, HIGH: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr):
    return clamp(requantize_high(acc, multiplier, shift) if HIGH else requantize(acc, multiplier, shift), LOW, TOP)


@triton.jit(do_not_specialize=["M", "tokens"])
def linear(
    x, weight, bias, multiplier, multiplier_b, shift, residual, table, out,
    M, N, tokens, x_row, out_image, out_row, residual_image, residual_row,
    K: tl.constexpr, MODE: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr,
    TABLE: tl.constexpr, UNSIGNED: tl.constexpr, PACKED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out[m, n] of x int8 or UNSIGNED uint8 [M, K] and weight int8 [N, K], or PACKED pairs of 4 bits (packing.py).

    MODE "sums": int32 accumulators; "requantize": brought to LOW..TOP, then by a TABLE of 256 entries from -128 on;
    "add": with the residual. bias int32 [N] holds 128 times the row's weights more where x is UNSIGNED. HIGH: every
    shift is 33 or more. Row m is token m % tokens of an image: outputs and residuals are where these strides say.
    """
    pid, tiles = tl.program_id(0), tl.cdiv(N, BN)
    first = pid // (GROUP * tiles) * GROUP  # tiles of GROUP rows of tiles follow each other: they share the cache
    height = tl.minimum(tl.cdiv(M, BM) - first, GROUP)
    rows = (first + pid % (GROUP * tiles) % height) * BM + tl.arange(0, BM)
    channels = pid % (GROUP * tiles) // height * BN + tl.arange(0, BN)
    acc = _products(x, weight, rows, channels, x_row, M, N, K, UNSIGNED, PACKED, False, BM, BN, BK)
    known = channels < N
    acc += tl.load(bias + channels, mask=known, other=0)[None, :]
    image, token = rows // tokens, rows % tokens
    place = (image * out_image + token * out_row)[:, None] + channels[None, :]
    inside = (rows[:, None] < M) & known[None, :]
    if MODE == "sums":
        tl.store(out + place, acc, mask=inside)
    else:
        m = tl.load(multiplier + channels, mask=known, other=0)[None, :]
        e = tl.load(shift + channels, mask=known, other=33)[None, :]
        if MODE == "add":
            source = (image * residual_image + token * residual_row)[:, None] + channels[None, :]
            stream = tl.load(residual + source, mask=inside, other=0)
            m_b = tl.load(multiplier_b + channels, mask=known, other=0)[None, :]
            y = clamp(add(acc, stream, m, m_b, e), LOW, TOP)
        else:
            y = _requantized(acc, m, e, HIGH, LOW, TOP)
        if TABLE:
            y = look_up(tl.load(table + tl.arange(0, 256)), y + 128, BM, BN)
        tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def linear_turned(
    x, weight, bias, multiplier, shift, out, N, tokens, x_row, out_channel,
    K: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr, UNSIGNED: tl.constexpr,
    PACKED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """`linear` with requantize, of groups of `tokens` rows: out [groups, N, out_channel], of which `tokens` count.

    The others are written as well, so that whole words are stored where out_channel is a multiple of 16.
    """
    pid, wide, high = tl.program_id(0), tl.cdiv(tokens, BM), tl.cdiv(N, BN)
    group = pid // (wide * high)
    rows, channels = pid % wide * BM + tl.arange(0, BM), pid // wide % high * BN + tl.arange(0, BN)
    acc = _products(
        x + group * tokens * x_row, weight, rows, channels, x_row, tokens, N, K, UNSIGNED, PACKED, True, BM, BN, BK
    )  # fmt: skip
    known = channels < N
    acc += tl.load(bias + channels, mask=known, other=0)[:, None]
    m = tl.load(multiplier + channels, mask=known, other=0)[:, None]
    e = tl.load(shift + channels, mask=known, other=33)[:, None]
    y = _requantized(acc, m, e, HIGH, LOW, TOP)
    place = (group * N + channels[:, None]) * out_channel + rows[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), mask=known[:, None] & (rows[None, :] < out_channel))
