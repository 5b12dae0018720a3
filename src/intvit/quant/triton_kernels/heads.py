"""Tokens to heads and back, for the float products of attention's gradient.

Tokens are (B, W * N, parts * C), the last axis (part, head, D); heads are (parts, B * W * heads, N, D).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.quant.triton_kernels.codes import unsaturated
from intvit.quant.triton_kernels.operators import block_of, launch, operator, rows_of


@triton.jit
def _tile(heads, tokens, PARTS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of one program's head: where it begins among tokens (first part) and among heads, its places in both, which are.

    Places fit int32: N * 3C < 2^31.
    """
    sequence, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < tokens)[:, None] & (column < SIZE)[None, :]
    line = PARTS * heads * SIZE
    first_token, first = sequence * tokens * line + head * SIZE, tl.program_id(0).to(tl.int64) * tokens * SIZE
    return first_token, first, row[:, None] * line + column[None, :], row[:, None] * SIZE + column[None, :], there


@triton.jit
def _split(x, out, heads, tokens, PARTS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One program: ROWS tokens of one head of every part."""
    first_token, first, token, place, there = _tile(heads, tokens, PARTS, SIZE, ROWS, COLUMNS)
    part_size = tl.num_programs(0).to(tl.int64) * tokens * SIZE
    for part in tl.static_range(PARTS):
        value = tl.load(x + first_token + part * heads * SIZE + token, mask=there, other=0).to(tl.float32)
        tl.store(out + part * part_size + first + place, value.to(out.dtype.element_ty), mask=there)


def _by_heads(x: Tensor, parts: int, heads: int, windows: int, dtype: torch.dtype) -> Tensor:
    images, tokens, width = x.shape
    shape = (parts, images * windows * heads, tokens // windows, width // (parts * heads))
    return x.new_empty(shape, dtype=dtype)


@operator(_by_heads)
def split_heads(x: Tensor, parts: int, heads: int, windows: int, dtype: torch.dtype) -> Tensor:
    """(B, W * N, parts * C) of codes or floats -> (parts, B * W * heads, N, D) of `dtype`, float32 or bfloat16."""
    out = _by_heads(x, parts, heads, windows, dtype)
    _, count, tokens, size = out.shape
    columns = block_of(size, 128)
    rows = rows_of(columns, 1024, tokens)
    launch(
        _split,
        (count, triton.cdiv(tokens, rows), triton.cdiv(size, columns)),
        *(x, out, heads, tokens),
        PARTS=parts,
        SIZE=size,
        ROWS=rows,
        COLUMNS=columns,
    )
    return out


@triton.jit(do_not_specialize_on_alignment=["scales"])
def _merge(
    query,
    key,
    value,
    codes,
    scales,
    out,
    heads,
    tokens,
    SIZE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS tokens of one head of the three gradients."""
    first_token, first, token, place, there = _tile(heads, tokens, 3, SIZE, ROWS, COLUMNS)
    for part in tl.static_range(3):
        target = first_token + part * heads * SIZE
        code = tl.load(codes + target + token, mask=there, other=0).to(tl.int32)
        gradient = query if part == 0 else key if part == 1 else value
        g = tl.load(gradient + first + place, mask=there, other=0.0).to(tl.float32)
        d = tl.where(unsaturated(code, BITS), g * tl.load(scales + part).to(tl.float32), 0.0)
        tl.store(out + target + token, d.to(out.dtype.element_ty), mask=there)


def _merged(query: Tensor, key: Tensor, value: Tensor, codes: Tensor, scales: Tensor, heads: int, bits: int) -> Tensor:
    return query.new_empty(codes.shape)


@operator(_merged)
def merge_heads(
    query: Tensor, key: Tensor, value: Tensor, codes: Tensor, scales: Tensor, heads: int, bits: int
) -> Tensor:
    """Gradients of query, key and value, each times its scale in float32, as one of qkv; zero at codes that saturate.

    Args:
        query, key, value: float32 or bfloat16 (B * W * heads, N, D).
        codes: int8 (B, W * N, 3C) of `bits` bits, what the gradients are of.
        scales: float32 or float64 (3,).

    Returns:
        (B, W * N, 3C) of the gradients' dtype.
    """
    out = _merged(query, key, value, codes, scales, heads, bits)
    count, tokens, size = query.shape
    columns = block_of(size, 128)
    rows = rows_of(columns, 1024, tokens)
    launch(
        _merge,
        (count, triton.cdiv(tokens, rows), triton.cdiv(size, columns)),
        *(query, key, value, codes, scales, out, heads, tokens),
        SIZE=size,
        BITS=bits,
        ROWS=rows,
        COLUMNS=columns,
    )
    return out
