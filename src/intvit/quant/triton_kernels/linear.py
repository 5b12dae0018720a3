"""A linear layer on int8 tensor cores: its product and its bias."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.quant.triton_kernels.operators import block_of, launch, operator


@triton.jit
def _linear(
    x,
    weight,
    bias,
    out,
    rows,
    columns,
    INNER_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    BAND: tl.constexpr,
):
    """One program: a tile of the output, in bands of BAND rows of tiles, whose operands stay in the cache."""
    tiles = tl.cdiv(columns, COLUMNS)
    first = tl.program_id(0) // (BAND * tiles) * BAND
    high = tl.minimum(tl.cdiv(rows, ROWS) - first, BAND)
    within = tl.program_id(0) % (BAND * tiles)
    first_row, first_column = (first + within % high).to(tl.int64) * ROWS, (within // high).to(tl.int64) * COLUMNS
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row_inside, column_inside = first_row + row < rows, first_column + column < columns
    x_line = x + first_row * INNER_SIZE + row[:, None] * INNER_SIZE
    weight_line = weight + first_column * INNER_SIZE + column[None, :] * INNER_SIZE
    acc = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, INNER_SIZE, INNER):
        k = start + tl.arange(0, INNER)
        if INNER_SIZE % INNER == 0:
            x_tile = tl.load(x_line + k[None, :], mask=row_inside[:, None], other=0)
            w_tile = tl.load(weight_line + k[:, None], mask=column_inside[None, :], other=0)
        else:
            inside = k < INNER_SIZE
            x_tile = tl.load(x_line + k[None, :], mask=row_inside[:, None] & inside[None, :], other=0)
            w_tile = tl.load(weight_line + k[:, None], mask=column_inside[None, :] & inside[:, None], other=0)
        acc = tl.dot(x_tile, w_tile, acc, out_dtype=tl.int32)
    if bias is not None:
        acc += tl.load(bias + first_column + column, mask=column_inside, other=0)[None, :]
    out += first_row * columns + first_column
    tl.store(out + row[:, None] * columns + column[None, :], acc, mask=row_inside[:, None] & column_inside[None, :])


def _accumulators(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.int32)


@operator(_accumulators)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, exact: int8 (M, K), int8 (N, K), int32 (N,) or None -> int32 (M, N), for any M, N, K.

    Every sum fits int32, as it does without a bias for K < 2^17.
    """
    out = _accumulators(x, weight, bias)
    (rows, inner), columns = x.shape, weight.shape[0]
    tile_rows = max(16, min(128, triton.next_power_of_2(rows)))
    tile_columns = max(16, min(128, triton.next_power_of_2(columns)))
    launch(
        _linear,
        (triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns),),
        *(x, weight, bias, out, rows, columns),
        warps=8 if tile_rows * tile_columns == 128 * 128 else 4,
        INNER_SIZE=inner,
        ROWS=tile_rows,
        COLUMNS=tile_columns,
        INNER=block_of(inner, 128, least=32),
        BAND=8,
    )
    return out
