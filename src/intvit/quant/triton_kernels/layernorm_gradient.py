"""The gradient of the float LayerNorm at codes."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.quant.triton_kernels.codes import unsaturated
from intvit.quant.triton_kernels.operators import launch, operator, rows_of


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
