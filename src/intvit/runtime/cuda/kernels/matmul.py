"""Products of two matrices of activations, signed or unsigned: the general form, for what attention does not take."""

import triton
import triton.language as tl


@triton.jit
def matmul(
    a, b, bias, out, M, N, heads, a_group, a_head, a_row, a_column, b_group, b_head, b_row, b_column,
    K: tl.constexpr, A_WIDE: tl.constexpr, A_OFFSET: tl.constexpr, B_OFFSET: tl.constexpr, BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """int32 out[group, head, m, n] = sum over k of a[m, k] * b[k, n], and of bias[n].

    Operands of 8 bits less their OFFSET (0, or 128 where they are unsigned) are int8; sums of the other put it back. a
    is A_WIDE: 0 to 65535, and so two products, of its high and its low bytes.
    """
    pid, wide, high = tl.program_id(0), tl.cdiv(N, BN), tl.cdiv(M, BM)
    matrix = pid // (wide * high)
    group, head = matrix // heads, matrix % heads
    rows, columns = pid // wide % high * BM + tl.arange(0, BM), pid % wide * BN + tl.arange(0, BN)
    a += group * a_group + head * a_head
    b += group * b_group + head * b_head
    acc, high_acc = tl.zeros((BM, BN), tl.int32), tl.zeros((BM, BN), tl.int32)
    a_sums, b_sums = tl.zeros((BM,), tl.int32), tl.zeros((BN,), tl.int32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        inside = (rows[:, None] < M) & (k[None, :] < K)
        x = tl.load(a + rows[:, None] * a_row + k[None, :] * a_column, mask=inside, other=0).to(tl.int32)
        inside = (k[:, None] < K) & (columns[None, :] < N)
        y = tl.load(b + k[:, None] * b_row + columns[None, :] * b_column, mask=inside, other=0).to(tl.int32)
        y = (y - B_OFFSET).to(tl.int8)
        a_sums += tl.sum(x, 1)
        b_sums += tl.sum(y.to(tl.int32), 0)
        if A_WIDE:
            high_acc = tl.dot(((x >> 8) - 128).to(tl.int8), y, high_acc, out_dtype=tl.int32)
            x = x & 255
        acc = tl.dot((x - A_OFFSET).to(tl.int8), y, acc, out_dtype=tl.int32)
    acc += (b_sums * A_OFFSET)[None, :] + (a_sums * B_OFFSET)[:, None]
    if A_WIDE:
        acc += (high_acc << 8) + (b_sums * (128 * 256))[None, :]
    if BIAS:
        acc += tl.load(bias + columns, mask=columns < N, other=0)[None, :]
    place = (matrix * M + rows[:, None]) * N + columns[None, :]
    tl.store(out + place, acc, mask=(rows[:, None] < M) & (columns[None, :] < N))
