"""Exact products of integer matrices: the normative one on int8 kernels, and a float one under a proven bound."""

import functools

import torch
from torch import Tensor


def integer_matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, exact, without floating point.

    Args:
        a: [..., M, K]; int8, uint8, int16, or int32/int64 holding 0..65535 (probabilities, weights of a softmax).
        b: int8 [..., K, N] with the leading axes of `a`, or [K, N] shared by all of them.

    Returns:
        int32 [..., M, N]. Every true sum must fit int32, which the program's bounds check proves: K < 2^17 does it for
        int8 operands, sum(p) < 2^24 for probabilities and weights. Partial results are joined in int64.

    Raises:
        TypeError: a dtype that is not listed.
    """
    if b.dtype != torch.int8:
        raise TypeError(f"integer_matmul takes an int8 right operand, not {b.dtype}")
    if a.dtype == torch.int8:
        return _int8_matmul(a, b)
    column_sum = b.sum(-2, keepdim=True, dtype=torch.int64)
    if a.dtype == torch.uint8:
        # u = (u - 128) + 128, and u - 128 fits int8
        return (_int8_matmul(_minus_128(a), b).to(torch.int64) + 128 * column_sum).to(torch.int32)
    if a.dtype not in (torch.int16, torch.int32, torch.int64):
        raise TypeError(f"integer_matmul takes an int8, uint8, int16, int32 or int64 left operand, not {a.dtype}")
    # a = 256 h + l, where l and (but for int16, whose h is signed) h are in 0..255
    signed = a.dtype == torch.int16
    high = (a >> 8).to(torch.int8) if signed else _minus_128(a >> 8)
    offset = 128 if signed else 128 * 256 + 128
    low_product = _int8_matmul(_minus_128(a & 255), b)
    joined = (_int8_matmul(high, b).to(torch.int64) << 8) + low_product + offset * column_sum
    return joined.to(torch.int32)


def _minus_128(u: Tensor) -> Tensor:
    return (u.to(torch.int16) - 128).to(torch.int8)


def _int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """int8 [..., M, K] times int8 [..., K, N] or [K, N] -> int32, by torch._int_mm on two-dimensional slices."""
    if b.dim() == 2:
        return _int_mm(a.reshape(-1, a.shape[-1]), b).view(*a.shape[:-1], b.shape[-1])
    if a.shape[:-2] != b.shape[:-2]:
        raise ValueError(f"leading axes of the operands differ: {tuple(a.shape)} and {tuple(b.shape)}")
    rows, columns = a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    out = torch.stack([_int_mm(rows[i], columns[i]) for i in range(rows.shape[0])])
    return out.view(*a.shape[:-1], b.shape[-1])


def _int_mm(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type != "cuda":
        if a.shape[1] == 1:  # the CPU kernel misreads an inner axis of one
            a, b = torch.nn.functional.pad(a, (0, 1)), torch.nn.functional.pad(b, (0, 0, 0, 1))
        return torch._int_mm(a, b)
    # cuBLAS wants more than 16 rows and multiples of 8 elsewhere; zeros change no sum.
    rows, inner, columns = max(0, 17 - a.shape[0]), -a.shape[1] % 8, -b.shape[1] % 8
    if rows or inner or columns:
        a = torch.nn.functional.pad(a, (0, inner, 0, rows))
        b = torch.nn.functional.pad(b, (0, columns, 0, inner))
        return torch._int_mm(a, b)[: a.shape[0] - rows, : b.shape[1] - columns].contiguous()
    return torch._int_mm(a, b)


def exact_length(a_limit: int, b_limit: int) -> int:
    """Longest inner axis for which float32 sums of |a| <= a_limit times |b| <= b_limit are exact: 1024 for int8."""
    return (1 << 24) // (a_limit * b_limit)


def float_matmul(a: Tensor, b: Tensor, a_limit: int = 128, b_limit: int = 128) -> Tensor:
    """a @ b of integers by float matrix products, equal to `integer_matmul`.

    Every partial sum of a float32 product over at most `exact_length` elements is an integer of magnitude at most 2^24,
    which float32 holds exactly in any order of summation. Longer rows are split. So is an operand of more than 8 bits,
    into high and low bytes, which the shorter mantissas of tensor cores hold too.

    Args:
        a: integers or integral floats [..., M, K], |a| <= a_limit < 2^16.
        b: integers or integral floats [..., K, N], |b| <= b_limit <= 128.

    Returns:
        int32 [..., M, N]. Every true sum must fit int32.
    """
    if a_limit > 255:
        a = a.to(torch.float32)
        high = torch.floor(a * 2.0**-8)
        return float_matmul(high, b, 255, b_limit) * 256 + float_matmul(a - high * 256.0, b, 255, b_limit)
    inner, piece = a.shape[-1], exact_length(a_limit, b_limit)
    if inner <= piece:
        return (a.to(torch.float32) @ b.to(torch.float32)).to(torch.int32)
    a, b = a.to(torch.float32), b.to(torch.float32)
    starts = range(0, inner, piece)
    parts = [(a[..., k : k + piece] @ b[..., k : k + piece, :]).to(torch.int32) for k in starts]
    return functools.reduce(torch.add, parts)
