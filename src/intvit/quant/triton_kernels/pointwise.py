"""Functions of one code: GELU and its gradient by look-up, the gradient of saturation, and codes as real values."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.quant.triton_kernels.codes import unsaturated
from intvit.quant.triton_kernels.operators import block_of, launch, like_gradient, operator, rows_of
from intvit.runtime.cuda.kernels import integers

BLOCK = 1024


@triton.jit
def _gelu(
    x,
    table,
    codes,
    extremes,
    tokens,
    channels,
    SIZE: tl.constexpr,
    BY_MAXIMUM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS tokens of one image, in blocks of COLUMNS channels. `extremes` keeps ~low and high."""
    image = tl.program_id(1).to(tl.int64)
    first, row = tl.program_id(0) * ROWS, tl.arange(0, ROWS)
    there, place = (first + row < tokens)[:, None], row[:, None] * channels
    x += (image * tokens + first) * channels
    codes += (image * tokens + first) * channels
    low, high = tl.full((ROWS,), 127, tl.int32), tl.full((ROWS,), -128, tl.int32)
    if BY_MAXIMUM:
        for start in range(0, channels, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            valid = there & (column < channels)[None, :]
            value = tl.load(x + place + column[None, :], mask=valid, other=-128).to(tl.int32)
            high = tl.maximum(high, tl.max(value, 1))
    line = tl.maximum(high, 0) * SIZE + SIZE // 2
    if not BY_MAXIMUM:
        entries = tl.load(table + tl.arange(0, SIZE))
    for start in range(0, channels, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        valid = there & (column < channels)[None, :]
        value = tl.load(x + place + column[None, :], mask=valid, other=0).to(tl.int32)
        if BY_MAXIMUM:
            entry = tl.load(table + line[:, None] + value, mask=valid, other=0)
        else:
            entry = integers.look_up(entries, value + SIZE // 2, ROWS, COLUMNS)
            high = tl.maximum(high, tl.max(tl.where(valid, value, -128), 1))
        low = tl.minimum(low, tl.min(tl.where(valid, value, 127), 1))
        tl.store(codes + place + column[None, :], entry, mask=valid)
    tl.atomic_max(extremes + 2 * image, ~tl.min(low, 0), sem="relaxed")
    tl.atomic_max(extremes + 2 * image + 1, tl.max(high, 0), sem="relaxed")


def _activations(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=table.dtype), x.new_empty((x.shape[0], 2), dtype=torch.int8)


@operator(_activations)
def gelu(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """`intvit.arithmetic.apply_gelu_table`, and the extremes of every image's inputs.

    Args:
        x: int8 (B, T, C) of `bits` bits.
        table: int8, `gelu_table`: (2^bits,), or of ShiftGELU (2^(bits-1), 2^bits), by the row's maximum.

    Returns:
        codes int8 (B, T, C); extremes int8 (B, 2), smallest and largest code.
    """
    images, tokens, channels = x.shape
    codes = x.new_empty(x.shape, dtype=table.dtype)
    extremes = torch.full((images, 2), -128, dtype=torch.int32, device=x.device)
    columns = block_of(channels, 512)
    rows = rows_of(columns, 2048, tokens)
    launch(
        _gelu,
        (triton.cdiv(tokens, rows), images),
        *(x, table, codes, extremes, tokens, channels),
        SIZE=table.shape[-1],
        BY_MAXIMUM=table.dim() == 2,
        ROWS=rows,
        COLUMNS=columns,
    )
    extremes = extremes.to(torch.int8)
    extremes[:, 0].bitwise_not_()
    return codes, extremes


@triton.jit
def _mask(gradient, codes, out, count, BITS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    code = tl.load(codes + place, mask=inside, other=0).to(tl.int32)
    g = tl.load(gradient + place, mask=inside, other=0.0)
    tl.store(out + place, tl.where(unsaturated(code, BITS), g, 0.0), mask=inside)


@operator(like_gradient)
def mask(gradient: Tensor, codes: Tensor, bits: int) -> Tensor:
    """The gradient where -2^(bits-1) < code < 2^(bits-1) - 1, else zero: `intvit.quant.kernels.mask`.

    Args:
        gradient: float32 or bfloat16; codes: int8 or int16 of its shape.
    """
    out = torch.empty_like(gradient)
    _launch_flat(_mask, gradient, codes, out, codes.numel(), BITS=bits)
    return out


def _launch_flat(kernel: object, *operands: Tensor | int | None, **constants: int | bool) -> None:
    count = operands[-1]
    assert isinstance(count, int)
    launch(kernel, (triton.cdiv(count, BLOCK),), *operands, BLOCK=BLOCK, **constants)


@triton.jit
def _gelu_gradient(gradient, codes, derivative, out, count, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    index = tl.load(codes + place, mask=inside, other=0).to(tl.int32) + SIZE // 2
    kept = (index > 0) & (index < SIZE - 1)
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    d = g * tl.gather(tl.load(derivative + tl.arange(0, SIZE)), index, 0)
    tl.store(out + place, tl.where(kept, d, 0.0).to(out.dtype.element_ty), mask=inside)


@operator(like_gradient)
def gelu_gradient(gradient: Tensor, codes: Tensor, derivative: Tensor) -> Tensor:
    """gradient * derivative[code + 2^(bits-1)], the product in float32; zero at codes that saturate.

    Args:
        gradient: float32 or bfloat16; codes: int8 of its shape; derivative: float32 (2^bits,), bits at most 8.
    """
    out = torch.empty_like(gradient)
    _launch_flat(_gelu_gradient, gradient, codes, derivative, out, codes.numel(), SIZE=derivative.shape[0])
    return out


@triton.jit
def _dequantize(codes, scale, out, columns, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    code = tl.load(codes + place, mask=inside, other=0).to(tl.float32)
    step = tl.load(scale + place // columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (code * step).to(out.dtype.element_ty), mask=inside)


def _reals(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.new_empty(codes.shape, dtype=dtype)


@operator(_reals)
def dequantize(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """codes * scale, the product in float32, then rounded to `dtype`.

    Args:
        codes: int8 or int16 (N, K); scale: float32 or float64 (N,), one of each row; dtype: float32 or bfloat16.
    """
    out = _reals(codes, scale, dtype)
    _launch_flat(_dequantize, codes, scale, out, codes.shape[1], codes.numel())
    return out
