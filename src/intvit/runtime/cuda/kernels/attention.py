"""Attention in one kernel: logits, softmax and the mean of values, for blocks of rows, in passes over the keys.

The row's maximum comes first: exponentials are tables of the distance from it, which no running maximum can rescale.
"""

import triton
import triton.language as tl

from intvit.runtime.cuda.kernels.integers import (
    add,
    add_high,
    clamp,
    look_up,
    quotient,
    requantize,
    requantize_high,
    round_shift,
)


@triton.jit
def _codes(
    acc, b, multiplier, multiplier_b, shift, BIAS: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr,
    TOP: tl.constexpr,
):  # fmt: skip
    """Logits of the products and biases."""
    if BIAS:
        y = add_high(acc, b, multiplier, multiplier_b, shift) if HIGH else add(acc, b, multiplier, multiplier_b, shift)
    else:
        y = requantize_high(acc, multiplier, shift) if HIGH else requantize(acc, multiplier, shift)
    return clamp(y, LOW, TOP)


@triton.jit
def _logits(
    query, k, bias, mask, rows, keys, channels, M, N, k_token, bias_token, mask_token, multiplier, multiplier_b, shift,
    D: tl.constexpr, RAW: tl.constexpr, BIAS: tl.constexpr, MASK: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr,
    TOP: tl.constexpr,
):  # fmt: skip
    """int32 logits, or RAW products, of a block of rows and keys, and which of them are kept."""
    inside = (keys[None, :] < N) & (channels[:, None] < D)
    key = tl.load(k + keys[None, :] * k_token + channels[:, None], mask=inside, other=0)
    x = tl.dot(query, key, out_dtype=tl.int32)
    kept = (rows[:, None] < M) & (keys[None, :] < N)
    if not RAW:
        inside = (rows[:, None] < M) & (keys[None, :] < bias_token)
        b = tl.load(bias + rows[:, None] * bias_token + keys[None, :], mask=inside, other=0) if BIAS else 0
        x = _codes(x, b, multiplier, multiplier_b, shift, BIAS, HIGH, LOW, TOP)
    if MASK:
        inside = (rows[:, None] < M) & (keys[None, :] < mask_token)
        kept = kept & (tl.load(mask + rows[:, None] * mask_token + keys[None, :], mask=inside, other=1) == 0)
    return x, kept


@triton.jit
def _weights(table, entries, codes, largest, kept, GATHER: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """int32 exponentials or weights by the distance from the row's maximum; 0 where a logit is not kept."""
    distance = tl.where(kept, largest[:, None] - codes, 0)
    # 65,536 entries do not fit into shared memory
    found = look_up(entries, distance, BM, BN) if GATHER else tl.load(table + distance)
    return tl.where(kept, found.to(tl.int32), 0)


# Numbers of a layer change with every layer: no code of its own for those that are 1 or divisible by 16.
@triton.jit(do_not_specialize=["multiplier", "multiplier_b", "shift", "mean_multiplier", "mean_shift", "M"])
def attention(
    q, k, v, bias, mask, table, multiplier_out, shift_out, out, M, heads, groups,
    q_group, q_head, q_token, k_group, k_head, k_token, v_group, v_head, v_channel,
    bias_group, bias_head, bias_token, mask_group, mask_head, mask_token, out_group, out_head, out_token,
    multiplier, multiplier_b, shift, mean_multiplier, mean_shift,
    N: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, WHOLE: tl.constexpr, BIAS: tl.constexpr, MASK: tl.constexpr,
    GATHER: tl.constexpr, MONOTONE: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr, TOP: tl.constexpr,
    SOFTMAX: tl.constexpr, BITS: tl.constexpr, WEIGHT_BITS: tl.constexpr, OUT_LOW: tl.constexpr, OUT_TOP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """BM rows of one head: q int8 [M, D], k int8 [N, D], v int8 [D, N] -> int8 [M, D], each dense along its last axis.

    Rows of v, bias and mask are read up to their distance (v_channel and so on), in words where that is a multiple of
    16; what stands behind N has the weight 0. bias int16 [M, N] joins the logits' requantize; mask uint8 [M, N]
    excludes where it is 1; both are the same for all images of `groups` groups. table [256] for a GATHER, or [65536].
    HIGH: the shift is 33 or more.
    WHOLE: all keys are one block, whose logits are kept. Else MONOTONE: the multiplier is positive and there is no
    bias, so that the largest product has the largest logit.
    SOFTMAX "deferred": the table holds weights, and the mean is divided by their sum; "rounded", "floor": it holds
    exponentials, normalized to BITS bits, and products are requantized with multiplier_out and shift_out [D].
    Weights and probabilities are below 2^WEIGHT_BITS.
    """
    pid, blocks = tl.program_id(0), tl.cdiv(M, BM)
    head, group = pid // blocks % heads, pid // blocks // heads
    rows, keys, channels = pid % blocks * BM + tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, DP)
    q += group * q_group + head * q_head
    k += group * k_group + head * k_head
    v += group * v_group + head * v_head
    if BIAS:
        bias += group % groups * bias_group + head * bias_head
    if MASK:
        mask += group % groups * mask_group + head * mask_head
    known = (rows[:, None] < M) & (channels[None, :] < D)
    query = tl.load(q + rows[:, None] * q_token + channels[None, :], mask=known, other=0)
    entries = tl.load(table + tl.arange(0, 256)) if GATHER else 0

    if WHOLE:
        codes, kept = _logits(
            query, k, bias, mask, rows, keys, channels, M, N, k_token, bias_token, mask_token, multiplier, multiplier_b,
            shift, D, False, BIAS, MASK, HIGH, LOW, TOP,
        )  # fmt: skip
        largest = tl.max(tl.where(kept, codes, LOW), 1)
    else:
        largest = tl.full((BM,), -(1 << 31), tl.int32)
        for start in range(0, N, BN):
            x, kept = _logits(
                query, k, bias, mask, rows, start + keys, channels, M, N, k_token, bias_token, mask_token, multiplier,
                multiplier_b, shift, D, MONOTONE, BIAS, MASK, HIGH, LOW, TOP,
            )  # fmt: skip
            largest = tl.maximum(largest, tl.max(tl.where(kept, x, -(1 << 31)), 1))
        if MONOTONE:
            largest = _codes(largest, 0, multiplier, multiplier_b, shift, False, HIGH, LOW, TOP)

    total = tl.zeros((BM,), tl.int32)  # < 2^31
    if SOFTMAX != "deferred":
        for start in range(0, N, BN):
            if not WHOLE:
                codes, kept = _logits(
                    query, k, bias, mask, rows, start + keys, channels, M, N, k_token, bias_token, mask_token,
                    multiplier, multiplier_b, shift, D, False, BIAS, MASK, HIGH, LOW, TOP,
                )  # fmt: skip
            total += tl.sum(_weights(table, entries, codes, largest, kept, GATHER, BM, BN), 1)
        numerator = (1 << 46) - 1 if SOFTMAX == "rounded" else (1 << 31) - 1
        factor = quotient(tl.full((BM,), numerator, tl.int64), tl.maximum(total, 1))[:, None]

    # Weights of 8 bits less 128 are int8, and so are both bytes of wider ones; 128 times the column's sum is put back.
    sums, high_sums = tl.zeros((BM, DP), tl.int32), tl.zeros((BM, DP), tl.int32)
    columns = tl.zeros((DP,), tl.int32)
    for start in range(0, N, BN):
        n = start + keys
        if not WHOLE:
            codes, kept = _logits(
                query, k, bias, mask, rows, n, channels, M, N, k_token, bias_token, mask_token, multiplier,
                multiplier_b, shift, D, False, BIAS, MASK, HIGH, LOW, TOP,
            )  # fmt: skip
        weight = _weights(table, entries, codes, largest, kept, GATHER, BM, BN)
        if SOFTMAX == "deferred":
            total += tl.sum(weight, 1)
        elif SOFTMAX == "rounded":
            weight = tl.minimum((weight.to(tl.int64) * factor + (1 << (45 - BITS))) >> (46 - BITS), (1 << BITS) - 1)
            weight = weight.to(tl.int32)
        else:
            weight = ((weight.to(tl.int64) * factor) >> (32 - BITS)).to(tl.int32)
        inside = (n[:, None] < v_channel) & (channels[None, :] < D)
        values = tl.load(v + channels[None, :] * v_channel + n[:, None], mask=inside, other=0)
        if WEIGHT_BITS <= 7:
            sums = tl.dot(weight.to(tl.int8), values, sums, out_dtype=tl.int32)
        else:
            columns += tl.sum(values.to(tl.int32), 0)
            if WEIGHT_BITS > 8:
                high_sums = tl.dot(((weight >> 8) - 128).to(tl.int8), values, high_sums, out_dtype=tl.int32)
                weight = weight & 255
            sums = tl.dot((weight - 128).to(tl.int8), values, sums, out_dtype=tl.int32)
    if WEIGHT_BITS > 8:
        sums += (high_sums << 8) + (columns * (128 * 256))[None, :]
    if WEIGHT_BITS > 7:
        sums += (columns * 128)[None, :]

    if SOFTMAX == "deferred":
        # rows beyond M have no weights
        share = quotient(tl.full((BM,), 0, tl.int64) + mean_multiplier, tl.maximum(total, 1))[:, None]
        y = round_shift(sums.to(tl.int64) * share, mean_shift)
    else:
        m = tl.load(multiplier_out + channels, mask=channels < D, other=0)[None, :]
        y = requantize(sums, m, tl.load(shift_out + channels, mask=channels < D, other=1)[None, :])
    place = group * out_group + head * out_head + rows[:, None] * out_token + channels[None, :]
    tl.store(out + place, clamp(y, OUT_LOW, OUT_TOP).to(out.dtype.element_ty), mask=known)
