"""LayerNorm: the integers of `intvit.arithmetic.layernorm`, and the gradient of the float function."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.arithmetic import container
from intvit.quant.triton_kernels.codes import empty_magnitudes, keep_largest, real_factor, saturate, unsaturated
from intvit.quant.triton_kernels.operators import block_of, launch, operator, rows_of
from intvit.runtime.cuda.kernels import integers


@triton.jit
def _load_shifted(x, channel_shift, place, column, valid, inside):
    """Codes as int64, each channel shifted left."""
    value = tl.load(x + place + column[None, :], mask=valid, other=0).to(tl.int64)
    if channel_shift is not None:
        value = value << tl.load(channel_shift + column, mask=inside, other=0)[None, :]
    return value


@triton.jit
def _floored_mean(total, CHANNELS: tl.constexpr):
    """floor((2 total + C) / (2 C)), |total| < 2^20 C: made positive first, as division of a negative one truncates."""
    return (2 * total + CHANNELS + (2 * CHANNELS << 20)) // (2 * CHANNELS) - (1 << 20)


@triton.jit
def _newton_root(variance, STEPS: tl.constexpr):
    """I-ViT's root: from 2^16, STEPS of Newton's iteration."""
    root = tl.full(variance.shape, 1 << 16, tl.int64)
    for _ in tl.static_range(STEPS):
        root = (root + integers.quotient(variance, root)) >> 1
    return root


@triton.jit(do_not_specialize_on_alignment=["m", "bias", "e"])
def _layernorm(
    x,
    channel_shift,
    m,
    bias,
    e,
    codes,
    magnitudes,
    tokens,
    CHANNELS: tl.constexpr,
    EXACT: tl.constexpr,
    NORMALIZER_SHIFT: tl.constexpr,
    NEWTON_STEPS: tl.constexpr,
    SQUARE_SHIFT: tl.constexpr,
    BITS: tl.constexpr,
    OBSERVE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS tokens of one image, whose channels it walks two or three times, COLUMNS at once."""
    image = tl.program_id(1).to(tl.int64)
    first, row = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    there, place = (first + row < tokens)[:, None], row[:, None] * CHANNELS
    x += (image * tokens + first) * CHANNELS
    codes += (image * tokens + first) * CHANNELS
    total, variance = tl.zeros((ROWS,), tl.int64), tl.zeros((ROWS,), tl.int64)
    for start in range(0, CHANNELS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < CHANNELS
        value = _load_shifted(x, channel_shift, place, column, there & inside[None, :], inside)
        total += tl.sum(value, 1)
        if EXACT:
            variance += tl.sum(value * value, 1)
    if EXACT:
        # y = C x - S, |y| < 2^32
        gain, offset = CHANNELS, total
        variance = CHANNELS * variance - total * total
        root = integers.integer_root(variance)
        numerator = 1 << 40
    else:
        gain, offset = 1, _floored_mean(total, CHANNELS)
        for start in range(0, CHANNELS, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            inside = column < CHANNELS
            valid = there & inside[None, :]
            value = _load_shifted(x, channel_shift, place, column, valid, inside)
            z = tl.where(valid, (value - offset[:, None]) >> SQUARE_SHIFT, 0)
            variance += tl.sum(z * z, 1)
        root = _newton_root(variance, NEWTON_STEPS) if NEWTON_STEPS > 0 else integers.integer_root(variance)
        root = root << SQUARE_SHIFT
        numerator = (1 << 31) - 1
    factor = integers.quotient(tl.full((ROWS,), numerator, tl.int64), tl.maximum(root, 1))
    factor = tl.where(variance == 0, 0, factor)
    largest = tl.zeros((ROWS, COLUMNS), tl.float64)
    for start in range(0, CHANNELS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < CHANNELS
        valid = there & inside[None, :]
        value = _load_shifted(x, channel_shift, place, column, valid, inside)
        n = (((gain * value - offset[:, None]) * factor[:, None]) >> NORMALIZER_SHIFT).to(tl.int32)  # below 2^31
        multiplier = tl.load(m + column, mask=inside, other=0).to(tl.int32)
        shift = tl.load(e + column, mask=inside, other=1)
        constant = tl.load(bias + column, mask=inside, other=0)
        product = n.to(tl.int64) * multiplier.to(tl.int64)[None, :]
        y = saturate(integers.round_shift(product + constant[None, :], shift[None, :]), BITS)
        tl.store(codes + place + column[None, :], y.to(codes.dtype.element_ty), mask=valid)
        if OBSERVE:
            half = tl.full((COLUMNS,), 1, tl.int64) << (shift - 1)
            real = n.to(tl.float64) * real_factor(multiplier, shift)[None, :]
            real = real + real_factor(constant + half, shift)[None, :] - 0.5
            largest = tl.maximum(largest, tl.where(valid, tl.abs(real), 0.0))
    if OBSERVE:
        keep_largest(magnitudes + image, tl.max(tl.max(largest, 1), 0))


def _layernormed(
    x: Tensor,
    method: str,
    normalizer_shift: int,
    newton_steps: int,
    square_shift: int,
    channel_shift: Tensor | None,
    multiplier: Tensor,
    bias: Tensor,
    shift: Tensor,
    bits: int,
    observe: bool = False,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=container(bits)), empty_magnitudes(x.shape[0], 1, observe, x)


@operator(_layernormed)
def layernorm(
    x: Tensor,
    method: str,
    normalizer_shift: int,
    newton_steps: int,
    square_shift: int,
    channel_shift: Tensor | None,
    multiplier: Tensor,
    bias: Tensor,
    shift: Tensor,
    bits: int,
    observe: bool = False,
) -> tuple[Tensor, Tensor]:
    """`intvit.arithmetic.layernorm`, and the largest magnitude of every image before rounding and saturation.

    Args:
        x: int8 or int16 (B, T, C).
        method to channel_shift: of an `intvit.arithmetic.Normalizer`, `exact`, `ivit` or `ibert`; its real value in a
            training step of method `float` has no kernel.
        multiplier, bias, shift, bits: of `intvit.arithmetic.LayerNormParameters`, int64 (C,).

    Returns:
        codes int8 or int16 (B, T, C); magnitudes float64 (B, 1) of n * (m / 2^e) + (bias + 2^(e-1)) / 2^e - 0.5, each
        operation correctly rounded; (0, 1) unless `observe`.
    """
    assert method in ("exact", "ivit", "ibert"), method
    codes, magnitudes = _layernormed(
        x, method, normalizer_shift, newton_steps, square_shift, channel_shift, multiplier, bias, shift, bits, observe
    )
    images, tokens, channels = x.shape
    columns = block_of(channels, 256)
    rows = rows_of(columns, 1024, tokens)
    launch(
        _layernorm,
        (triton.cdiv(tokens, rows), images),
        *(x, channel_shift, multiplier, bias, shift, codes, magnitudes.view(torch.int64), tokens),
        CHANNELS=channels,
        EXACT=method == "exact",
        NORMALIZER_SHIFT=normalizer_shift,
        NEWTON_STEPS=newton_steps,
        SQUARE_SHIFT=square_shift,
        BITS=bits,
        OBSERVE=observe,
        ROWS=rows,
        COLUMNS=columns,
    )
    return codes, magnitudes


@triton.jit(do_not_specialize_on_alignment=["scale"])
def _layernorm_gradient(
    gradient,
    codes,
    factors,
    scale,
    weight,
    dx,
    dweight,
    dbias,
    rows,
    epsilon,
    CHANNELS: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: every so many rows, ROWS at once; its sums for the parameters are one row of dweight and dbias."""
    column = tl.arange(0, COLUMNS)
    inside = column < CHANNELS
    # In integers the mean has no rounding, which a small deviation would magnify: y = C x - S is C times x less it.
    # Channels with factors are integers in steps of scale / 8.
    step = tl.load(scale).to(tl.float64) / CHANNELS
    up = 0
    if factors is not None:
        step = step * 0.125
        up = 3 - tl.load(factors + column, mask=inside, other=0)[None, :]
    gamma = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    sum_w, sum_b = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        valid = (row < rows)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * CHANNELS + column[None, :]
        code = tl.load(codes + place, mask=valid, other=0).to(tl.int64)
        g = tl.load(gradient + place, mask=valid, other=0.0).to(tl.float32)
        x = code << up
        y = tl.where(valid, CHANNELS * x - tl.sum(x, 1)[:, None], 0)
        centered = y.to(tl.float32) * step.to(tl.float32)
        reciprocal = tl.rsqrt(tl.sum(centered * centered, 1) / CHANNELS + epsilon)[:, None]
        normal = centered * reciprocal
        sum_w += g * normal
        sum_b += g
        g = g * gamma
        mean, projection = tl.sum(g, 1) / CHANNELS, tl.sum(g * normal, 1) / CHANNELS
        d = (g - mean[:, None] - normal * projection[:, None]) * reciprocal
        kept = unsaturated(code, BITS)
        tl.store(dx + place, tl.where(kept, d, 0.0).to(dx.dtype.element_ty), mask=valid)
    place = tl.program_id(0) * CHANNELS + column
    tl.store(dweight + place, tl.sum(sum_w, 0), mask=inside)
    tl.store(dbias + place, tl.sum(sum_b, 0), mask=inside)


def _layernorm_gradients(
    gradient: Tensor,
    codes: Tensor,
    factors: Tensor | None,
    scale: Tensor,
    weight: Tensor,
    epsilon: float,
    bits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    dweight, dbias = (torch.empty_like(weight, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(gradient), dweight, dbias


PROGRAMS = 1024
"""Fixed, so that a gradient's sums have one order on every card."""


@operator(_layernorm_gradients)
def layernorm_gradient(
    gradient: Tensor,
    codes: Tensor,
    factors: Tensor | None,
    scale: Tensor,
    weight: Tensor,
    epsilon: float,
    bits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the float LayerNorm at the real values codes * scale * 2^-factors, computed in float32.

    Args:
        gradient: float32 or bfloat16 (..., C), of the outputs; codes: int8 or int16 of its shape.
        factors: int64 (C,), 0..3, or None; scale: float of no axis; weight: float32 (C,).

    Returns:
        dx of the gradient's shape and dtype, zero at codes that saturate; dweight, dbias float32 (C,).
    """
    dx = torch.empty_like(gradient)
    channels = weight.shape[0]
    rows = codes.numel() // channels
    columns = triton.next_power_of_2(channels)
    block = rows_of(columns, 2048, rows)
    programs = min(PROGRAMS, triton.cdiv(rows, block))
    partial = weight.new_empty((2, programs, channels), dtype=torch.float32)
    launch(
        _layernorm_gradient,
        (programs,),
        *(gradient, codes, factors, scale, weight, dx, partial[0], partial[1], rows, epsilon),
        warps=max(4, min(32, columns // 512)),
        CHANNELS=channels,
        BITS=bits,
        ROWS=block,
        COLUMNS=columns,
    )
    return dx, partial[0].sum(0), partial[1].sum(0)
