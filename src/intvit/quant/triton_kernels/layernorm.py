"""LayerNorm of codes: the integers of `intvit.arithmetic.layernorm`, methods `exact`, `ivit` and `ibert`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.arithmetic import container
from intvit.quant.triton_kernels.codes import empty_magnitudes, keep_largest, real_factor, saturate
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


@triton.jit
def _statistics(
    x,
    channel_shift,
    place,
    there,
    CHANNELS: tl.constexpr,
    EXACT: tl.constexpr,
    NEWTON_STEPS: tl.constexpr,
    SQUARE_SHIFT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Of every row S and floor(2^40 / R), or its floored mean and floor((2^31 - 1) / R); 0 for 1 / R at variance 0."""
    total, variance = tl.zeros((ROWS,), tl.int64), tl.zeros((ROWS,), tl.int64)
    for start in range(0, CHANNELS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < CHANNELS
        value = _load_shifted(x, channel_shift, place, column, there & inside[None, :], inside)
        total += tl.sum(value, 1)
        if EXACT:
            variance += tl.sum(value * value, 1)
    if EXACT:
        offset = total
        variance = CHANNELS * variance - total * total
        root = integers.integer_root(variance)
        numerator = 1 << 40
    else:
        offset = _floored_mean(total, CHANNELS)
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
    return offset, tl.where(variance == 0, 0, factor)


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
    """One program: ROWS tokens of one image, whose channels it walks COLUMNS at once."""
    image = tl.program_id(1).to(tl.int64)
    first, row = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    there, place = (first + row < tokens)[:, None], row[:, None] * CHANNELS
    x += (image * tokens + first) * CHANNELS
    codes += (image * tokens + first) * CHANNELS
    offset, factor = _statistics(
        x, channel_shift, place, there, CHANNELS, EXACT, NEWTON_STEPS, SQUARE_SHIFT, ROWS, COLUMNS
    )
    gain = CHANNELS if EXACT else 1
    largest = tl.zeros((ROWS, COLUMNS), tl.float64)
    for start in range(0, CHANNELS, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < CHANNELS
        valid = there & inside[None, :]
        value = _load_shifted(x, channel_shift, place, column, valid, inside)
        # |y| = |C x - S| or |x - mean| < 2^32, |n| < 2^31
        n = (((gain * value - offset[:, None]) * factor[:, None]) >> NORMALIZER_SHIFT).to(tl.int32)
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
