"""The product of a linear layer on int8 tensor cores."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.quant.triton_kernels.operators import block_of, launch, operator


@triton.jit
def _linear(
    x,
    weight,
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
    row = (first + within % high) * ROWS + tl.arange(0, ROWS)
    column = within // high * COLUMNS + tl.arange(0, COLUMNS)
    x_line = x + row.to(tl.int64)[:, None] * INNER_SIZE
    weight_line = weight + column.to(tl.int64)[None, :] * INNER_SIZE
    acc = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, INNER_SIZE, INNER):
        k = start + tl.arange(0, INNER)
        x_tile = tl.load(x_line + k[None, :], mask=(row < rows)[:, None] & (k < INNER_SIZE)[None, :], other=0)
        w_tile = tl.load(
            weight_line + k[:, None], mask=(column < columns)[None, :] & (k < INNER_SIZE)[:, None], other=0
        )
        acc = tl.dot(x_tile, w_tile, acc, out_dtype=tl.int32)
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + place, acc, mask=(row < rows)[:, None] & (column < columns)[None, :])


def _accumulators(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.int32)


@operator(_accumulators)
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T, exact: int8 (M, K) and int8 (N, K), K < 2^17 -> int32 (M, N). Any M, N, K."""
    out = _accumulators(x, weight)
    (rows, inner), columns = x.shape, weight.shape[0]
    tile_rows = max(16, min(128, triton.next_power_of_2(rows)))
    tile_columns = max(16, min(128, triton.next_power_of_2(columns)))
    launch(
        _linear,
        (triton.cdiv(rows, tile_rows) * triton.cdiv(columns, tile_columns),),
        *(x, weight, out, rows, columns),
        warps=8 if tile_rows * tile_columns == 128 * 128 else 4,
        INNER_SIZE=inner,
        ROWS=tile_rows,
        COLUMNS=tile_columns,
        INNER=block_of(inner, 128, least=32),
        BAND=8,
    )
    return out
