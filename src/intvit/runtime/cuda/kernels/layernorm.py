"""LayerNorm over rows of integers: methods exact, ivit and ibert of docs/program-format.md."""

import triton
import triton.language as tl

from intvit.runtime.cuda.kernels.integers import clamp, floor_quotient, high_word, integer_root, quotient


@triton.jit
def _block(x, channel_shift, rows, channels, x_row, M, C: tl.constexpr, BC: tl.constexpr, SHIFTED: tl.constexpr):
    """int32 [rows, channels], shifted; 0 outside."""
    inside = rows[:, None] < M
    if C % BC != 0:
        inside = inside & (channels[None, :] < C)
    v = tl.load(x + rows[:, None] * x_row + channels[None, :], mask=inside, other=0).to(tl.int32)
    if SHIFTED:
        v = v << tl.load(channel_shift + channels, mask=channels < C, other=0).to(tl.int32)[None, :]
    return v


@triton.jit
def _reciprocal(
    x, channel_shift, rows, x_row, M, total, squares, newton_steps, square_shift,
    C: tl.constexpr, METHOD: tl.constexpr, SHIFTED: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """F of every row, int64, 0 where the definition has n = 0; and the mean that ivit and ibert subtract."""
    if METHOD == "exact":
        root = integer_root(C * squares - total * total)
        return tl.where(root > 0, quotient(tl.full((BM,), 1 << 40, tl.int64), tl.maximum(root, 1)), 0), total * 0
    mean = floor_quotient(2 * total + C, 2 * C)
    if METHOD == "ivit":
        spread = squares - 2 * mean * total + C * mean * mean  # the sum of (x - mean)^2
        if newton_steps == 0:
            root = integer_root(spread)
        else:
            root = tl.full((BM,), 1 << 16, tl.int64)
            for _ in range(newton_steps):
                root = (root + quotient(spread, root)) >> 1
    else:
        spread = tl.zeros((BM,), tl.int64)
        for start in range(0, C, BC):
            channels = start + tl.arange(0, BC)
            v = _block(x, channel_shift, rows, channels, x_row, M, C, BC, SHIFTED).to(tl.int64)
            z = (v - mean[:, None]) >> square_shift
            if C % BC != 0:
                z = tl.where(channels[None, :] < C, z, 0)
            spread += tl.sum(z * z, 1)
        root = integer_root(spread) << square_shift
    known = (spread > 0) & (root > 0)
    return tl.where(known, quotient(tl.full((BM,), (1 << 31) - 1, tl.int64), tl.maximum(root, 1)), 0), mean


@triton.jit(do_not_specialize=["M"])
def layernorm(
    x, multiplier, bias, shift, channel_shift, out, M, x_row,
    C: tl.constexpr, METHOD: tl.constexpr, NORMALIZER_SHIFT: tl.constexpr, NEWTON_STEPS: tl.constexpr,
    SQUARE_SHIFT: tl.constexpr, SHIFTED: tl.constexpr, NARROW: tl.constexpr, HIGH: tl.constexpr,
    LOW: tl.constexpr, TOP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """x int8 or int16 [M, C] -> out [M, C], in LOW..TOP. bias int64 [C] holds B + 2^(e-1).

    NARROW: C * x, y and n fit int32. Then (y F) >> k with F = F_h 2^k + F_l is y F_h + ((y F_l) >> k), a product of 32
    bits and one of 32 x 32, for n is known modulo 2^32. HIGH: every shift is 32 or more.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    total, squares = tl.zeros((BM,), tl.int64), tl.zeros((BM,), tl.int64)
    for start in range(0, C, BC):
        v = _block(x, channel_shift, rows, start + tl.arange(0, BC), x_row, M, C, BC, SHIFTED)
        total += tl.sum(v if NARROW else v.to(tl.int64), 1)
        squares += tl.sum(v.to(tl.int64) * v.to(tl.int64), 1)
    factor, mean = _reciprocal(
        x, channel_shift, rows, x_row, M, total, squares, NEWTON_STEPS, SQUARE_SHIFT, C, METHOD, SHIFTED, BM, BC
    )  # fmt: skip
    scale = C if METHOD == "exact" else 1
    offset = total if METHOD == "exact" else mean
    for start in range(0, C, BC):
        channels = start + tl.arange(0, BC)
        v = _block(x, channel_shift, rows, channels, x_row, M, C, BC, SHIFTED)
        if NARROW:
            y = v * scale - offset.to(tl.int32)[:, None]
            f_high = (factor >> NORMALIZER_SHIFT).to(tl.int32)[:, None]
            f_low = (factor & ((1 << NORMALIZER_SHIFT) - 1)).to(tl.int32)[:, None]
            n = y * f_high + ((y.to(tl.int64) * f_low.to(tl.int64)) >> NORMALIZER_SHIFT).to(tl.int32)
        else:
            n = ((v.to(tl.int64) * scale - offset[:, None]) * factor[:, None]) >> NORMALIZER_SHIFT
        known = channels < C
        m = tl.load(multiplier + channels, mask=known, other=0)[None, :]
        e = tl.load(shift + channels, mask=known, other=32)[None, :]
        z = n.to(tl.int64) * m.to(tl.int64) + tl.load(bias + channels, mask=known, other=0)[None, :]
        z = clamp(high_word(z) >> (e - 32) if HIGH else z >> e.to(tl.int64), LOW, TOP)
        place = rows[:, None] * C + channels[None, :]
        tl.store(out + place, z.to(out.dtype.element_ty), mask=(rows[:, None] < M) & known[None, :])
