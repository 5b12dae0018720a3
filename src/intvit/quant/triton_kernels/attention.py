"""The two integer products of attention on tensor cores, each with its requantization: q k^T -> logits, p v -> context.

qkv holds one token's (query, key, value) x heads x D in its last axis, so that nothing is transposed in memory. Tokens
are `windows` sequences of equal length N, each attending to itself. Heads are counted over images, windows and heads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.arithmetic import container
from intvit.quant.triton_kernels.codes import empty_magnitudes, keep_largest, magnitude, real_factor, saturate
from intvit.quant.triton_kernels.operators import block_of, launch, operator
from intvit.runtime.cuda.kernels import integers


@triton.jit(do_not_specialize_on_alignment=["m", "e", "m_b"])
def _logits(
    qkv,
    m,
    e,
    bias,
    m_b,
    excluded,
    logits,
    magnitudes,
    heads,
    windows,
    tokens,
    SIZE: tl.constexpr,
    BITS: tl.constexpr,
    OBSERVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """One program: ROWS queries times COLUMNS keys of one head of SIZE."""
    sequence = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    width = heads * SIZE
    first = sequence.to(tl.int64) * tokens * 3 * width + head * SIZE
    queries, keys = qkv + first + row[:, None] * 3 * width, qkv + first + width + column[None, :] * 3 * width
    acc = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, SIZE, INNER):
        k = start + tl.arange(0, INNER)
        q_tile = tl.load(queries + k[None, :], mask=(row < tokens)[:, None] & (k < SIZE)[None, :], other=0)
        k_tile = tl.load(keys + k[:, None], mask=(column < tokens)[None, :] & (k < SIZE)[:, None], other=0)
        acc = tl.dot(q_tile, k_tile, acc, out_dtype=tl.int32)
    valid = (row < tokens)[:, None] & (column < tokens)[None, :]
    place = row[:, None] * tokens + column[None, :]
    multiplier, shift = tl.load(m).to(tl.int32), tl.load(e).to(tl.int32)
    if bias is not None:
        joined = tl.load(bias + head * tokens * tokens + place, mask=valid, other=0).to(tl.int32)
        multiplier_b = tl.load(m_b).to(tl.int32)
        y = integers.add(acc, joined, multiplier, multiplier_b, shift)
    else:
        y = integers.requantize(acc, multiplier, shift)
    y = saturate(y, BITS)
    logits += tl.program_id(0).to(tl.int64) * tokens * tokens
    tl.store(logits + place, y.to(logits.dtype.element_ty), mask=valid)
    if OBSERVE:
        counted = valid
        if excluded is not None:
            window = sequence % windows
            counted = counted & (tl.load(excluded + window * tokens * tokens + place, mask=valid, other=1) == 0)
        acc = tl.where(counted, acc, 0)
        factor = real_factor(multiplier, shift)
        if bias is not None:
            real = acc.to(tl.float64) * factor
            real += tl.where(counted, joined, 0).to(tl.float64) * real_factor(multiplier_b, shift)
            largest = tl.max(tl.max(tl.abs(real), 1), 0)
        else:
            largest = magnitude(tl.min(tl.min(acc, 1), 0), tl.max(tl.max(acc, 1), 0)) * tl.abs(factor)
        keep_largest(magnitudes + sequence // windows, largest)


def _logit_codes(
    qkv: Tensor,
    heads: int,
    windows: int,
    m: Tensor,
    e: Tensor,
    bits: int,
    bias: Tensor | None = None,
    m_b: Tensor | None = None,
    excluded: Tensor | None = None,
    observe: bool = False,
) -> tuple[Tensor, Tensor]:
    images, tokens = qkv.shape[0], qkv.shape[1] // windows
    shape = (images, windows, heads, tokens, tokens)
    return qkv.new_empty(shape, dtype=container(bits)), empty_magnitudes(images, 1, observe, qkv)


@operator(_logit_codes)
def attention_logits(
    qkv: Tensor,
    heads: int,
    windows: int,
    m: Tensor,
    e: Tensor,
    bits: int,
    bias: Tensor | None = None,
    m_b: Tensor | None = None,
    excluded: Tensor | None = None,
    observe: bool = False,
) -> tuple[Tensor, Tensor]:
    """requantize(q k^T, m, e), or with a bias add(q k^T, bias, m, m_b, e), and the largest magnitudes.

    Args:
        qkv: int8 (B, W * N, 3C), the last axis (3, heads, D), D < 2^17: sums fit int32.
        m, e, m_b: int64 of one entry.
        bits: 2 to 16.
        bias: int16 (heads, N, N) or None, together with m_b.
        excluded: bool (W, 1, N, N) or None; entries that do not count in the magnitudes.

    Returns:
        codes int8 or int16 (B, W, heads, N, N); magnitudes float64 (B, 1) as in `requantize` and `add`.
    """
    logits, magnitudes = _logit_codes(qkv, heads, windows, m, e, bits, bias, m_b, excluded, observe)
    tokens, size = logits.shape[-1], qkv.shape[-1] // (3 * heads)
    rows = columns = max(16, min(64, triton.next_power_of_2(tokens)))
    launch(
        _logits,
        (logits.numel() // (tokens * tokens), triton.cdiv(tokens, rows), triton.cdiv(tokens, columns)),
        *(qkv, m, e, bias, m_b, excluded, logits, magnitudes.view(torch.int64), heads, windows, tokens),
        SIZE=size,
        BITS=bits,
        OBSERVE=observe,
        ROWS=rows,
        COLUMNS=columns,
        INNER=block_of(size, 64, least=32),
    )
    return logits, magnitudes


@triton.jit
def _low_byte(weight):
    """The low byte less 128, int8: tensor cores multiply signed bytes, and 128 times the values' sum comes back."""
    return ((weight & 255) - 128).to(tl.int8)


@triton.jit(do_not_specialize_on_alignment=["m", "e"])
def _context(
    weights,
    qkv,
    total,
    m,
    e,
    context,
    magnitudes,
    heads,
    windows,
    tokens,
    SIZE: tl.constexpr,
    BYTES: tl.constexpr,
    BITS: tl.constexpr,
    OBSERVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """One program: ROWS queries of one head times COLUMNS of its SIZE. BYTES of a weight: 0 one with a sign, 1, 2."""
    sequence, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    width = heads * SIZE
    inside = column < SIZE
    lines = weights + tl.program_id(0).to(tl.int64) * tokens * tokens + row[:, None] * tokens
    values = qkv + sequence.to(tl.int64) * tokens * 3 * width + 2 * width + head * SIZE + column[None, :]
    sums, high_sums = tl.zeros((ROWS, COLUMNS), tl.int32), tl.zeros((ROWS, COLUMNS), tl.int32)
    offset = tl.zeros((COLUMNS,), tl.int32)
    for start in range(0, tokens, INNER):
        k = start + tl.arange(0, INNER)
        weight = tl.load(lines + k[None, :], mask=(row < tokens)[:, None] & (k < tokens)[None, :], other=0)
        value = tl.load(values + k[:, None] * 3 * width, mask=(k < tokens)[:, None] & inside[None, :], other=0)
        if BYTES == 0:
            sums = tl.dot(weight, value, sums, out_dtype=tl.int32)
        else:
            sums = tl.dot(_low_byte(weight.to(tl.int32)), value, sums, out_dtype=tl.int32)
            offset += tl.sum(value.to(tl.int32), 0)
        if BYTES == 2:
            high_sums = tl.dot(_low_byte(weight.to(tl.int32) >> 8), value, high_sums, out_dtype=tl.int32)
    if BYTES == 1:
        sums += 128 * offset[None, :]
    if BYTES == 2:  # modulo 2^32, to a sum that fits
        sums += 256 * high_sums + 128 * 257 * offset[None, :]
    shift = tl.load(e).to(tl.int32)
    if total is not None:
        total += tl.program_id(0).to(tl.int64) * tokens
        factor = integers.quotient(tl.load(m), tl.load(total + row, mask=row < tokens, other=1))
        y = integers.round_shift(sums.to(tl.int64) * factor[:, None], shift)
    else:
        factor = tl.zeros((ROWS,), tl.int64) + tl.load(m)
        y = integers.requantize(sums, tl.load(m).to(tl.int32), shift)
    y = saturate(y, BITS)
    valid = (row < tokens)[:, None] & inside[None, :]
    context += sequence.to(tl.int64) * tokens * width + head * SIZE
    tl.store(context + row[:, None] * width + column[None, :], y.to(context.dtype.element_ty), mask=valid)
    if OBSERVE:
        sums = tl.where(valid, sums, 0)
        largest = magnitude(tl.min(sums, 1), tl.max(sums, 1)) * tl.abs(real_factor(factor, shift))
        keep_largest(magnitudes + sequence // windows, tl.max(largest, 0))


def _launch_context(
    weights: Tensor, qkv: Tensor, total: Tensor | None, m: Tensor, e: Tensor, bits: int, observe: bool
) -> tuple[Tensor, Tensor]:
    context, magnitudes = _context_codes(weights, qkv, m, e, bits, observe)
    _, windows, heads, tokens, _ = weights.shape
    size = context.shape[-1] // heads
    weight_bytes = {torch.int8: 0, torch.uint8: 1, torch.int16: 2, torch.int32: 2}[weights.dtype]
    rows = max(16, min(64, triton.next_power_of_2(tokens)))
    columns = block_of(size, 64 if weight_bytes == 2 else 128, least=16)  # two bytes have two sums
    launch(
        _context,
        (weights.numel() // (tokens * tokens), triton.cdiv(tokens, rows), triton.cdiv(size, columns)),
        *(weights, qkv, total, m, e, context, magnitudes.view(torch.int64), heads, windows, tokens),
        SIZE=size,
        BYTES=weight_bytes,
        BITS=bits,
        OBSERVE=observe,
        ROWS=rows,
        COLUMNS=columns,
        INNER=32 if weight_bytes == 2 else max(32, min(64, triton.next_power_of_2(tokens))),
    )
    return context, magnitudes


def _context_codes(
    weights: Tensor, qkv: Tensor, m: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor]:
    images, tokens, width = qkv.shape
    return qkv.new_empty((images, tokens, width // 3), dtype=container(bits)), empty_magnitudes(images, 1, observe, qkv)


def _mean_codes(
    weights: Tensor, qkv: Tensor, total: Tensor, m: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor]:
    return _context_codes(weights, qkv, m, e, bits, observe)


@operator(_mean_codes)
def weighted_mean(
    weights: Tensor, qkv: Tensor, total: Tensor, m: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor]:
    """`intvit.arithmetic.weighted_mean` of the sums weights @ v, heads merged, and the largest magnitudes.

    Args:
        weights: uint8, or int32 below 2^16, (B, W, heads, N, N), and total: int32 (B, W, heads, N, 1), of `weights`.
        qkv: int8 (B, W * N, 3C), as in `attention_logits`.
        m, e: int64 of one entry, from `intvit.arithmetic.derive_mean`: 0 <= m < 2^53.
        bits: 2 to 16.

    Returns:
        codes (B, W * N, C), int8 up to 8 bits; magnitudes float64 (B, 1) of sums * (floor(m / total) / 2^e), correctly
        rounded; (0, 1) unless `observe`.
    """
    return _launch_context(weights, qkv, total, m, e, bits, observe)


@operator(_context_codes)
def weighted_requantize(
    weights: Tensor, qkv: Tensor, m: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor]:
    """requantize(probabilities @ v, m, e), heads merged, and the largest magnitudes.

    Args:
        weights: `probabilities`, int8, uint8, int16 or int32, below 2^16, (B, W, heads, N, N); every sum fits int32.
        m, e: int64 of one entry, |m| < 2^31, 1 <= e <= 53.

    Returns:
        as `weighted_mean`; magnitudes of sums * (m / 2^e).
    """
    return _launch_context(weights, qkv, None, m, e, bits, observe)
