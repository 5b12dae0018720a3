"""The functions of softmax: weights and probabilities by look-up in tables of distances from the row's maximum, and the
gradient of the float softmax.

Logits are codes (B, W, heads, N, N). A row's maximum comes first: a table is no exponential, so that there is no
running maximum to rescale by. Rows are walked in blocks of columns, so that N is any length.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.arithmetic import container
from intvit.quant.triton_kernels.codes import unsaturated
from intvit.quant.triton_kernels.operators import launch, like_gradient, operator, rows_of
from intvit.runtime.cuda.kernels import integers

LOWEST = tl.constexpr(-(1 << 16))


@triton.jit
def _load_logits(
    logits, excluded, first, rows, start, heads, windows, tokens, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Of rows from `first` on, which `logits` points to, and columns from `start` on: codes as int32 (ROWS, COLUMNS),
    LOWEST where they do not count; which count; their places from `first` on; which places there are."""
    row, column = tl.arange(0, ROWS), start + tl.arange(0, COLUMNS)
    place, there = row[:, None] * tokens + column[None, :], (first + row < rows)[:, None] & (column < tokens)[None, :]
    x = tl.load(logits + place, mask=there, other=0).to(tl.int32)
    counted = there
    if excluded is not None:
        line = (first + row) // (tokens * heads) % windows * tokens + (first + row) % tokens
        counted = there & (tl.load(excluded + line[:, None] * tokens + column[None, :], mask=there, other=1) == 0)
    return tl.where(counted, x, LOWEST), counted, place, there


@triton.jit
def _row_maximum(logits, excluded, first, rows, heads, windows, tokens, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    largest = tl.full((ROWS,), LOWEST, tl.int32)
    for start in range(0, tokens, COLUMNS):
        x, _, _, _ = _load_logits(logits, excluded, first, rows, start, heads, windows, tokens, ROWS, COLUMNS)
        largest = tl.maximum(largest, tl.max(x, 1))
    return largest


@triton.jit
def _from_table(table, largest, x, counted, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The table's entries at the distances of x from the rows' maxima, zero where x does not count."""
    distance = tl.where(counted, largest[:, None] - x, 0)
    if SIZE <= 256:
        entry = integers.look_up(tl.load(table + tl.arange(0, SIZE)), distance, ROWS, COLUMNS)
    else:  # too large to be held by a program
        entry = tl.load(table + distance)
    return tl.where(counted, entry, 0)


@triton.jit
def _weights(
    logits,
    table,
    excluded,
    weights,
    total,
    rows,
    heads,
    windows,
    tokens,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(0) * ROWS
    logits += first.to(tl.int64) * tokens
    weights += first.to(tl.int64) * tokens
    largest = _row_maximum(logits, excluded, first, rows, heads, windows, tokens, ROWS, COLUMNS)
    sums = tl.zeros((ROWS,), tl.int32)
    for start in range(0, tokens, COLUMNS):
        x, counted, place, there = _load_logits(
            logits, excluded, first, rows, start, heads, windows, tokens, ROWS, COLUMNS
        )
        weight = _from_table(table, largest, x, counted, SIZE, ROWS, COLUMNS)
        sums += tl.sum(weight.to(tl.int32), 1)
        tl.store(weights + place, weight, mask=there)
    row = first + tl.arange(0, ROWS)
    tl.store(total + row, sums, mask=row < rows)


def _weight_codes(logits: Tensor, table: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return (
        logits.new_empty(logits.shape, dtype=table.dtype),
        logits.new_empty((*logits.shape[:-1], 1), dtype=torch.int32),
    )


@operator(_weight_codes)
def weights(logits: Tensor, table: Tensor, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`intvit.arithmetic.exponential` by look-up in its `weight_table`, and the sums of its rows.

    Args:
        logits: int8 or int16 (B, W, heads, N, N).
        table: uint8 or int32 (2^bits,), the weight at every distance from the row's maximum.
        excluded: bool (W, 1, N, N) or None; at least one logit of a row is not.

    Returns:
        weights (B, W, heads, N, N) of the table's dtype, zero where excluded; total int32 (B, W, heads, N, 1).
    """
    values, total = _weight_codes(logits, table, excluded)
    _launch_rows(_weights, (logits, table, excluded, values, total), logits, SIZE=table.shape[0])
    return values, total


def _launch_rows(kernel: object, operands: tuple[Tensor | None, ...], logits: Tensor, **constants: int | bool) -> None:
    """A kernel of rows: its operands, then rows, heads, windows, tokens."""
    _, windows, heads, tokens, _ = logits.shape
    count = logits.numel() // tokens
    columns = max(16, min(256, triton.next_power_of_2(tokens)))
    rows = rows_of(columns, 2048, count)
    launch(
        kernel,
        (triton.cdiv(count, rows),),
        *(*operands, count, heads, windows, tokens),
        ROWS=rows,
        COLUMNS=columns,
        **constants,
    )


@triton.jit
def _probabilities(
    logits,
    table,
    excluded,
    codes,
    rows,
    heads,
    windows,
    tokens,
    SIZE: tl.constexpr,
    BITS: tl.constexpr,
    ROUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """In float64, like `normalize_float64`, which says why that is exact."""
    first = tl.program_id(0) * ROWS
    logits += first.to(tl.int64) * tokens
    codes += first.to(tl.int64) * tokens
    largest = _row_maximum(logits, excluded, first, rows, heads, windows, tokens, ROWS, COLUMNS)
    sums = tl.zeros((ROWS,), tl.float64)
    for start in range(0, tokens, COLUMNS):
        x, counted, _, _ = _load_logits(logits, excluded, first, rows, start, heads, windows, tokens, ROWS, COLUMNS)
        sums += tl.sum(_from_table(table, largest, x, counted, SIZE, ROWS, COLUMNS).to(tl.float64), 1)
    sums = tl.where(first + tl.arange(0, ROWS) < rows, sums, 1.0)
    if ROUNDED:
        factor = tl.floor(tl.full((ROWS,), (1 << 46) - 1, tl.float64) / sums) * (2.0 ** (BITS - 46))
    else:
        factor = tl.floor(tl.full((ROWS,), (1 << 31) - 1, tl.float64) / sums) * (2.0 ** (BITS - 32))
    for start in range(0, tokens, COLUMNS):
        x, counted, place, there = _load_logits(
            logits, excluded, first, rows, start, heads, windows, tokens, ROWS, COLUMNS
        )
        product = _from_table(table, largest, x, counted, SIZE, ROWS, COLUMNS).to(tl.float64) * factor[:, None]
        if ROUNDED:
            code = tl.minimum(tl.floor(product + 0.5).to(tl.int32), (1 << BITS) - 1)
        else:
            code = tl.floor(product).to(tl.int32)
        tl.store(codes + place, code.to(codes.dtype.element_ty), mask=there)


def _probability_codes(
    logits: Tensor, table: Tensor, bits: int, normalization: str, excluded: Tensor | None = None
) -> Tensor:
    return logits.new_empty(logits.shape, dtype=container(bits, normalization == "floor"))


@operator(_probability_codes)
def probabilities(
    logits: Tensor, table: Tensor, bits: int, normalization: str, excluded: Tensor | None = None
) -> Tensor:
    """`intvit.arithmetic.softmax_from_table`: equal to it for tables of integers; the float family's real entries are
    summed in another order.

    Args:
        logits, excluded: as in `weights`.
        table: float64 or int64 (2^logit_bits,), `exponent_table`.
        bits: 2 to 16; normalization: `rounded` or `floor`.

    Returns:
        (B, W, heads, N, N): uint8 for `rounded` up to 8 bits, else int32; int8 or int16 for `floor`.
    """
    assert normalization in ("rounded", "floor"), normalization
    codes = _probability_codes(logits, table, bits, normalization, excluded)
    constants = {"SIZE": table.shape[0], "BITS": bits, "ROUNDED": normalization == "rounded"}
    _launch_rows(_probabilities, (logits, table, excluded, codes), logits, **constants)
    return codes


@triton.jit(do_not_specialize_on_alignment=["scale"])
def _softmax_gradient(
    gradient,
    logits,
    excluded,
    scale,
    out,
    rows,
    heads,
    windows,
    tokens,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(0) * ROWS
    logits += first.to(tl.int64) * tokens
    gradient += first.to(tl.int64) * tokens
    out += first.to(tl.int64) * tokens
    step = tl.load(scale).to(tl.float32)
    largest = _row_maximum(logits, excluded, first, rows, heads, windows, tokens, ROWS, COLUMNS)
    sums, products = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, tokens, COLUMNS):
        x, counted, place, _ = _load_logits(logits, excluded, first, rows, start, heads, windows, tokens, ROWS, COLUMNS)
        g = tl.load(gradient + place, mask=counted, other=0.0).to(tl.float32)
        exponential = tl.where(counted, tl.exp((x - largest[:, None]).to(tl.float32) * step), 0.0)
        sums += tl.sum(exponential, 1)
        products += tl.sum(exponential * g, 1)
    sums = tl.where(first + tl.arange(0, ROWS) < rows, sums, 1.0)
    mean = (products / sums)[:, None]
    for start in range(0, tokens, COLUMNS):
        x, counted, place, there = _load_logits(
            logits, excluded, first, rows, start, heads, windows, tokens, ROWS, COLUMNS
        )
        g = tl.load(gradient + place, mask=counted, other=0.0).to(tl.float32)
        softmax = tl.exp((x - largest[:, None]).to(tl.float32) * step) / sums[:, None]
        kept = counted & unsaturated(x, BITS)
        d = tl.where(kept, softmax * (g - mean), 0.0)
        tl.store(out + place, d.to(out.dtype.element_ty), mask=there)


@operator(like_gradient)
def softmax_gradient(
    gradient: Tensor, logits: Tensor, scale: Tensor, bits: int, excluded: Tensor | None = None
) -> Tensor:
    """Gradient of the float softmax of the real logits, recomputed from their codes in float32.

    Args:
        gradient: float32 or bfloat16 (B, W, heads, N, N), of the probabilities.
        logits, excluded: as in `weights`; scale: float of one entry, the real value of one step of the logits.

    Returns:
        the gradient's shape and dtype; zero where excluded and at codes that saturate.
    """
    out = torch.empty_like(gradient)
    _launch_rows(_softmax_gradient, (gradient, logits, excluded, scale, out), logits, BITS=bits)
    return out
