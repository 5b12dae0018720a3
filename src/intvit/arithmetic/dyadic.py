"""Dyadic numbers: how real ratios become integers, and the operators that multiply by them.

A real ratio r is stored as two integers (m, e), r ~ m / 2^e. `requantize`, `add` and `quantize_input` are the normative
integer definitions; `requantize_float64` and `add_float64` give the same integers faster, in float64.

The shift e never exceeds 53 - (bits - 1) for a signed target of `bits` bits (53 - bits for an unsigned one). Under that
cap every value that does not saturate is a multiple of 2^-e below 2^(53-e), which a float64 holds exactly; this is why
the float64 forms are equal to the integer ones and not just close.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from intvit.arithmetic import elementary
from intvit.arithmetic.chunks import by_rows, rounded_rows
from intvit.arithmetic.elementary import reals
from intvit.arithmetic.validity import require

# Multipliers have 31 bits: the product with an int32 accumulator stays below 2^62.
MULTIPLIER_BITS = 31


def limits(bits: int, signed: bool = True) -> tuple[int, int]:
    """Smallest and largest integer of a width, e.g. (-128, 127) for 8 bits and (0, 255) for 8 bits unsigned."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def container(bits: int, signed: bool = True) -> torch.dtype:
    """Smallest dtype for which torch has kernels everywhere that holds `bits` bits (unsigned 9 to 16 bits: int32)."""
    if not signed:
        return torch.uint8 if bits <= 8 else torch.int32
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32


def shift_cap(bits: int, signed: bool = True) -> int:
    """Largest shift e for a target of `bits` bits: 46 for int8, 45 for uint8, 38 for int16, 22 for int32."""
    return 53 - (bits - 1 if signed else bits)


def divide(value: Tensor | float, divisor: Tensor | float) -> Tensor:
    """value / divisor of a tensor and a number or two tensors, correctly rounded on every device.

    CUDA multiplies by the reciprocal of a Python number, and a Python number over a tensor is one times the tensor's
    reciprocal on every device: two roundings.
    """
    if not isinstance(value, Tensor):
        assert isinstance(divisor, Tensor)
        value = torch.full((), value, dtype=divisor.dtype, device=divisor.device)
    if not isinstance(divisor, Tensor):
        divisor = torch.full((), divisor, dtype=value.dtype, device=value.device)
    return value / divisor


def round_to(value: Tensor, scale: Tensor | float) -> Tensor:
    """value / scale rounded half up, int64, saturated at 32 bits: what a table's real values become."""
    return torch.floor(divide(value, scale) + 0.5).clamp(-(2.0**31), 2.0**31 - 1).to(torch.int64)


def encode_ratios(
    ratio: Tensor | float, bits: int, *, signed: bool = True, reserve: int = 0, operand_bits: int | Tensor = 31
) -> tuple[Tensor, Tensor]:
    """Encode every element of a float64 tensor, or a number, as (m, e) with ratio ~ m / 2^e: int64 of its shape.

    m has 31 bits (its sign is the ratio's), fewer where e meets its cap or where the operand is wider than an int32.
    Uncapped, the relative error is at most 2^-31. A ratio of 0 gives (0, 1). Uses only operations that IEEE 754 makes
    exact, so that every device gives the same integers.

    Args:
        ratio: finite real numbers.
        bits, signed: the integers that the product is clamped to.
        reserve: takes this many off the cap of e, for targets that sum more than one product.
        operand_bits: the integer operand's magnitude is at most 2^operand_bits; m * operand stays below 2^62.

    Raises:
        IntVitError: an element is not finite, or too large for e >= 1.
    """
    (ratio,) = reals(ratio)
    room = 62 - operand_bits
    length = room.clamp(max=MULTIPLIER_BITS) if isinstance(room, Tensor) else min(room, MULTIPLIER_BITS)
    return _encode(ratio, _common_shift(ratio.abs(), length, shift_cap(bits, signed) - reserve), length)


def encode_pair(ratio_a: Tensor, ratio_b: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Encode the two ratios of a residual add over a common shift: (m_a, m_b, e), int64, broadcast shape of both.

    The larger ratio of each element has the long multiplier. e is capped at 53 - `bits`, one less than in
    `encode_ratios`, which keeps the float64 form of `add` exact (see `add_float64`).

    Raises:
        IntVitError: an element is not finite, or too large for e >= 1.
    """
    ratio_a, ratio_b = torch.broadcast_tensors(*reals(ratio_a, ratio_b))
    shift = _common_shift(torch.maximum(ratio_a.abs(), ratio_b.abs()), MULTIPLIER_BITS, 53 - bits)
    return _encode(ratio_a, shift, MULTIPLIER_BITS)[0], _encode(ratio_b, shift, MULTIPLIER_BITS)[0], shift


def _common_shift(magnitude: Tensor, length: int | Tensor, cap: int) -> Tensor:
    """Shift at which `magnitude` has a `length`-bit multiplier, at most `cap`; 1 where it is 0."""
    shift = torch.where(magnitude == 0, 1, (length - elementary.exponent(magnitude)).clamp(max=cap))
    require(shift >= 1, lambda: _refused(magnitude, length))
    return shift.clamp(min=1)


def _refused(magnitude: Tensor, length: int | Tensor) -> str:
    """What is wrong with the largest of the ratios."""
    worst = float(torch.where(torch.isnan(magnitude), math.inf, magnitude).max())
    if not math.isfinite(worst):
        return f"ratio of scales is {worst}: scales must be finite and positive"
    return (
        f"ratio of scales {worst:g} is not below 2^{int(length) - 1}: the output scale is too small for the "
        "accumulator's scale; calibrate the output's range or raise its scale"
    )


def _encode(ratio: Tensor, shift: Tensor, length: int | Tensor) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(shift)
    multiplier = torch.floor(ratio.abs() * (one << shift).to(torch.float64) + 0.5).to(torch.int64)
    multiplier = torch.minimum(multiplier, (one << length) - 1)
    return torch.where(ratio < 0, -multiplier, multiplier), shift


def half_of(shift: int | Tensor) -> int | Tensor:
    """2^(shift-1): what rounds a right shift half up."""
    return torch.ones_like(shift) << (shift - 1) if isinstance(shift, Tensor) else 1 << (shift - 1)


def requantize(acc: Tensor, m: int | Tensor, e: int | Tensor, bits: int, signed: bool = True) -> Tensor:
    """clamp((acc * m + 2^(e-1)) >> e): multiply by m / 2^e, round half up, saturate to `bits` bits.

    For example acc = 25, m = 2^30, e = 31: (25 * 2^30 + 2^30) >> 31 = 13 (12.5 rounded up); acc = -25 gives -12.

    Args:
        acc: integers of any dtype, |acc| <= 2^31.
        m, e: integers, or int64 tensors that broadcast against the last axis; |m| < 2^31, 1 <= e <= 53.

    Returns:
        int64 of acc's shape. |acc * m + 2^(e-1)| < 2^62 + 2^52 < 2^63.
    """
    low, high = limits(bits, signed)
    return ((acc.to(torch.int64) * m + half_of(e)) >> e).clamp(low, high)


def add(a: Tensor, b: Tensor, m_a: int | Tensor, m_b: int | Tensor, e: int | Tensor, bits: int) -> Tensor:
    """clamp((a * m_a + b * m_b + 2^(e-1)) >> e): residual add with one sum and one rounding, signed `bits` bits.

    Args:
        a: integers, |a| <= 2^31 (a branch's int32 accumulator).
        b: integers, |b| <= 2^15 (the residual stream, at most int16).
        m_a, m_b, e: from `encode_pair`; integers or int64 tensors that broadcast against the last axis.

    Returns:
        int64. The sum is below 2^62 + 2^46 + 2^51 < 2^63.
    """
    low, high = limits(bits)
    return ((a.to(torch.int64) * m_a + b.to(torch.int64) * m_b + half_of(e)) >> e).clamp(low, high)


def input_parameters(
    mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor, scale: Tensor | float, bits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fold ((u / 255 - mean) / std) / scale into integers for `quantize_input`: (multiplier[C], bias[C], shift), int64.

    The shift is common to the channels: the largest ratio has the 31-bit multiplier. |bias| <= 255 * |mean| * 2^31.
    """
    means, deviations = (torch.as_tensor(values, dtype=torch.float64) for values in (mean, std))
    deviations, means, scale = reals(deviations, means, scale)
    ratios = divide(1.0, deviations * 255.0 * scale)
    shift = _common_shift(ratios.abs().amax(), MULTIPLIER_BITS, shift_cap(bits) - 1)
    multiplier = _encode(ratios, shift.expand(ratios.shape), MULTIPLIER_BITS)[0]
    bias = -means / (deviations * scale) * (torch.ones_like(shift) << shift).to(torch.float64)
    return multiplier, torch.floor(bias + 0.5).to(torch.int64), shift


def quantize_input(image: Tensor, multiplier: Tensor, bias: Tensor, shift: int | Tensor, bits: int) -> Tensor:
    """clamp((u * multiplier[c] + bias[c] + 2^(shift-1)) >> shift) of a uint8 image [..., C, H, W], as int64.

    |u * multiplier| < 2^39, |bias| < 2^60 and the rounding term is below 2^53: the sum is below 2^63.
    """
    low, high = limits(bits)
    product = image.to(torch.int64) * multiplier[:, None, None] + bias[:, None, None]
    return ((product + half_of(shift)) >> shift).clamp(low, high)


# -- the same integers in float64 --


def real_multiplier(m: int | Tensor, e: int | Tensor) -> float | Tensor:
    """m / 2^e as float64, exact: m has at most 31 bits and the divisor is a power of two."""
    if isinstance(e, Tensor):
        return torch.as_tensor(m, device=e.device).to(torch.float64) / (torch.ones_like(e) << e).to(torch.float64)
    return m.to(torch.float64) * 2.0**-e if isinstance(m, Tensor) else math.ldexp(m, -e)


def requantize_float64(acc: Tensor, m: int | Tensor, e: int | Tensor, bits: int, signed: bool = True) -> Tensor:
    """`requantize` in float64: equal for every |acc| <= 2^53 where e <= shift_cap(bits, signed).

    Why: let v = acc * m / 2^e. If v + 0.5 is within the target's range, v is a multiple of 2^-e of magnitude at most
    2^(bits-1) <= 2^(53-e), so product and sum are exact. Otherwise rounding is monotone and the range's ends are
    representable, so the rounded value stays beyond the same end and saturates alike.

    Args:
        acc: integers or integral floats, last axis = channels where m and e are tensors of one axis.

    Returns:
        tensor of acc's shape, dtype `container(bits, signed)`.
    """
    low, high = limits(bits, signed)
    factor = real_multiplier(m, e)

    def rounded(rows: Tensor) -> Tensor:
        return rows.to(torch.float64, copy=True).mul_(factor).add_(0.5).floor_().clamp_(low, high)

    return by_rows(rounded, acc, dtype=container(bits, signed))


def add_float64(
    a: Tensor,
    b: Tensor,
    m_a: int | Tensor,
    m_b: int | Tensor,
    e: int | Tensor,
    bits: int,
    peaks: Tensor | None = None,
) -> Tensor:
    """`add` in float64: equal for every |a| <= 2^31, |b| <= 2^15 where e <= 53 - bits.

    Why, in units of 2^-e: |b * m_b| <= 2^46 is exact. If |a * m_a| < 2^53 it is exact too, and so is the sum wherever
    it is at most 2^53, which is twice the saturation threshold 2^(bits-1+e) <= 2^52. If |a * m_a| >= 2^53, the sum is
    at least 2^53 - 2^46 > 2^52 before and after rounding, and saturates to the same end.

    peaks: float64 [rows], filled with the largest |a m_a / 2^e + b m_b / 2^e| of each row of the last axis.

    Returns:
        tensor of a's shape, dtype `container(bits)`.
    """
    low, high = limits(bits)
    factor_a, factor_b = real_multiplier(m_a, e), real_multiplier(m_b, e)

    def value(rows_a: Tensor, rows_b: Tensor) -> Tensor:
        return rows_a.to(torch.float64, copy=True).mul_(factor_a).add_(rows_b.to(torch.float64).mul_(factor_b))

    return rounded_rows(value, a, b.expand(a.shape), low=low, high=high, dtype=container(bits), peaks=peaks)
