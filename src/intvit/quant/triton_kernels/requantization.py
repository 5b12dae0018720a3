"""Accumulators to codes, `intvit.arithmetic.requantize` and `add`, and the largest magnitudes of their real values."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.arithmetic import container
from intvit.quant.triton_kernels.codes import empty_magnitudes, keep_largest, magnitude, real_factor, saturate
from intvit.quant.triton_kernels.operators import block_of, launch, operator, rows_of
from intvit.runtime.cuda.kernels import integers


@triton.jit(do_not_specialize_on_alignment=["m", "e"])
def _requantize(
    acc,
    bias,
    m,
    e,
    codes,
    magnitudes,
    tokens,
    width,
    STRIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    BITS: tl.constexpr,
    OBSERVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS tokens of one image times COLUMNS channels of one group. STRIDE of m and e: 1 (C,), 0 (1,)."""
    image = tl.program_id(2).to(tl.int64)
    channels, blocks = GROUPS * width, tl.cdiv(width, COLUMNS)
    group = tl.program_id(1) // blocks
    column = tl.program_id(1) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    channel, inside = group * width + column, column < width
    first, row = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    valid = (first + row < tokens)[:, None] & inside[None, :]
    start, place = (image * tokens + first) * channels, row[:, None] * channels + channel[None, :]
    x = tl.load(acc + start + place, mask=valid, other=0)
    if bias is not None:
        x = tl.where(valid, x + tl.load(bias + channel, mask=inside, other=0)[None, :], 0)
    multiplier = tl.load(m + channel * STRIDE, mask=inside, other=0).to(tl.int32)
    shift = tl.load(e + channel * STRIDE, mask=inside, other=1).to(tl.int32)
    y = integers.requantize(x, multiplier[None, :], shift[None, :])
    y = saturate(y, BITS)
    tl.store(codes + start + place, y.to(codes.dtype.element_ty), mask=valid)
    if OBSERVE:
        # Rounding is monotone: the largest of a channel's products is the product of its largest accumulator.
        largest = magnitude(tl.min(x, 0), tl.max(x, 0)) * tl.abs(real_factor(multiplier, shift))
        keep_largest(magnitudes + image * GROUPS + group, tl.max(largest, 0))


def _requantized(
    acc: Tensor, bias: Tensor | None, m: Tensor, e: Tensor, bits: int, groups: int = 1, observe: bool = False
) -> tuple[Tensor, Tensor]:
    return acc.new_empty(acc.shape, dtype=container(bits)), empty_magnitudes(acc.shape[0], groups, observe, acc)


@operator(_requantized)
def requantize(
    acc: Tensor, bias: Tensor | None, m: Tensor, e: Tensor, bits: int, groups: int = 1, observe: bool = False
) -> tuple[Tensor, Tensor]:
    """clamp(((acc + bias) * m + 2^(e-1)) >> e), and the largest |(acc + bias) * (m / 2^e)| of every image and group.

    Args:
        acc: int32 (B, T, C); bias: int32 (C,) or None. Their sum fits int32.
        m, e: int64 (C,) or of one entry, |m| < 2^31, 1 <= e <= 53.
        bits: 2 to 16.
        groups: equal parts of the last axis, each with a magnitude of its own.

    Returns:
        codes int8 or int16 (B, T, C); magnitudes float64 (B, groups) in steps of the codes, each the correctly rounded
        product of a real value before rounding and saturation; (0, groups) unless `observe`.
    """
    codes, magnitudes = _requantized(acc, bias, m, e, bits, groups, observe)
    images, tokens, channels = acc.shape
    width = channels // groups
    columns = block_of(width, 128)
    rows = rows_of(columns, 2048, tokens)
    launch(
        _requantize,
        (triton.cdiv(tokens, rows), groups * triton.cdiv(width, columns), images),
        *(acc, bias, m, e, codes, magnitudes.view(torch.int64), tokens, width),
        STRIDE=int(m.numel() > 1),
        GROUPS=groups,
        BITS=bits,
        OBSERVE=observe,
        ROWS=rows,
        COLUMNS=columns,
    )
    return codes, magnitudes


@triton.jit(do_not_specialize_on_alignment=["m_a", "m_b", "e"])
def _add(
    a,
    bias,
    b,
    m_a,
    m_b,
    e,
    codes,
    magnitudes,
    tokens,
    channels,
    STRIDE: tl.constexpr,
    BITS: tl.constexpr,
    OBSERVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS tokens of one image times COLUMNS channels."""
    image = tl.program_id(2).to(tl.int64)
    first, row = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    valid = (first + row < tokens)[:, None] & inside[None, :]
    start, place = (image * tokens + first) * channels, row[:, None] * channels + channel[None, :]
    x = tl.load(a + start + place, mask=valid, other=0)
    stream = tl.load(b + start + place, mask=valid, other=0).to(tl.int32)
    if bias is not None:
        x = tl.where(valid, x + tl.load(bias + channel, mask=inside, other=0)[None, :], 0)
    multiplier = tl.load(m_a + channel * STRIDE, mask=inside, other=0).to(tl.int32)
    multiplier_b = tl.load(m_b + channel * STRIDE, mask=inside, other=0).to(tl.int32)
    shift = tl.load(e + channel * STRIDE, mask=inside, other=1).to(tl.int32)
    y = integers.add(x, stream, multiplier[None, :], multiplier_b[None, :], shift[None, :])
    y = saturate(y, BITS)
    tl.store(codes + start + place, y.to(codes.dtype.element_ty), mask=valid)
    if OBSERVE:
        value = x.to(tl.float64) * real_factor(multiplier, shift)[None, :]
        value += stream.to(tl.float64) * real_factor(multiplier_b, shift)[None, :]
        keep_largest(magnitudes + image, tl.max(tl.max(tl.abs(value), 1), 0))


def _added(
    a: Tensor,
    bias: Tensor | None,
    b: Tensor,
    m_a: Tensor,
    m_b: Tensor,
    e: Tensor,
    bits: int,
    observe: bool = False,
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape, dtype=container(bits)), empty_magnitudes(a.shape[0], 1, observe, a)


@operator(_added)
def add(
    a: Tensor,
    bias: Tensor | None,
    b: Tensor,
    m_a: Tensor,
    m_b: Tensor,
    e: Tensor,
    bits: int,
    observe: bool = False,
) -> tuple[Tensor, Tensor]:
    """clamp(((a + bias) * m_a + b * m_b + 2^(e-1)) >> e), and the largest magnitude of the real sum of every image.

    Args:
        a: int32 (B, T, C), a branch's accumulators; bias: int32 (C,) or None. Their sum fits int32.
        b: int8 or int16 (B, T, C), the residual stream.
        m_a, m_b, e: int64, all (C,) or all of one entry, from `intvit.arithmetic.encode_pair`.
        bits: 2 to 16.

    Returns:
        codes int8 or int16 (B, T, C); magnitudes float64 (B, 1) of (a + bias) * (m_a / 2^e) + b * (m_b / 2^e), the
        products and the sum each correctly rounded; (0, 1) unless `observe`.
    """
    codes, magnitudes = _added(a, bias, b, m_a, m_b, e, bits, observe)
    images, tokens, channels = a.shape
    columns = block_of(channels, 128)
    rows = rows_of(columns, 2048, tokens)
    launch(
        _add,
        (triton.cdiv(tokens, rows), triton.cdiv(channels, columns), images),
        *(a, bias, b, m_a, m_b, e, codes, magnitudes.view(torch.int64), tokens, channels),
        STRIDE=int(e.numel() > 1),
        BITS=bits,
        OBSERVE=observe,
        ROWS=rows,
        COLUMNS=columns,
    )
    return codes, magnitudes
