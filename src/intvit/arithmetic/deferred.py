"""Softmax with deferred normalization: weights relative to the row's largest, and the division after their product.

softmax(x) V = (sum_j p_j v_j) / (sum_j p_j) for any p proportional to e^x. Here p_j is the exponential brought to
0..2^bits - 1 by one ratio, largest where x_j is the row's maximum, so that flat rows keep as many levels as sharp ones
(probabilities of 8 bits keep one or two of 256 in a flat row of 197), and each row costs one division instead of
one multiplication an entry. FlashAttention (arXiv 2205.14135) defers the division likewise, in floating point.
`exponential` and `weighted_mean` are normative.
"""

import torch
from torch import Tensor

from intvit.arithmetic.chunks import by_rows
from intvit.arithmetic.dyadic import container, divide, encode_ratios, limits, real_multiplier, requantize, shift_cap
from intvit.arithmetic.elementary import exponent as exponent_of
from intvit.arithmetic.elementary import power_of_two, reals
from intvit.arithmetic.exponent import Exponent
from intvit.arithmetic.validity import require


def largest_weight(bits: int, row_length: int) -> int:
    """The largest weight: 2^bits - 1, less where `row_length` of them times 128 would leave int32."""
    return min((1 << bits) - 1, ((1 << 31) - 1) // (128 * row_length))


def derive_weights(exponentials: Tensor, bits: int, row_length: int) -> tuple[Tensor, Tensor]:
    """(m, e) that take the largest of an exponent's `exponent_table` to `largest_weight`; int64 of no axis.

    It belongs to the row's maximum, but for coarse piecewise polynomials, which may be a little higher beside it.
    """
    ratio = divide(float(largest_weight(bits, row_length)), exponentials.amax())
    return encode_ratios(ratio, bits, signed=False)


def exponential(
    logits: Tensor, exponent: Exponent, m: int | Tensor, e: int | Tensor, bits: int, mask: Tensor | None = None
) -> Tensor:
    """Weights of the logits along the last axis: requantize(E(x - max(x)), m, e) to `bits` unsigned bits.

    Args:
        logits: integers [..., N] of the width and N that `exponent` was derived for; E < 2^31.
        m, e: from `derive_weights`.
        mask: bool, broadcasts against logits; True: the logit is excluded, not in the maximum and of weight 0. At least
            one of a row is not.

    Returns:
        int64 [..., N]. 1 <= weight of the maximum.
    """
    x = lowered(logits.to(torch.int64), mask)
    value = requantize(exponent(x - x.amax(-1, keepdim=True)), m, e, bits, signed=False)
    return value if mask is None else value.masked_fill(mask, 0)


def lowered(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits, excluded ones replaced by the smallest of all, so that no row's maximum is one of them."""
    return logits if mask is None else torch.where(mask, logits.amin(), logits)


def weight_table(exponentials: Tensor, m: int | Tensor, e: int | Tensor, bits: int) -> Tensor:
    """`exponential` at every distance from the maximum, of `exponent_table`: uint8 up to 8 bits, else int32."""
    # as in `requantize_float64`, but for its chunks
    weights = torch.floor(exponentials * real_multiplier(m, e) + 0.5)
    return weights.clamp(*limits(bits, signed=False)).to(container(bits, signed=False))


def exponential_from_table(logits: Tensor, table: Tensor, mask: Tensor | None = None) -> Tensor:
    """`exponential` by look-up in its `weight_table`: logits int8 or int16 [..., N] -> the table's dtype."""
    if mask is not None:
        return exponential_from_table(lowered(logits, mask), table).masked_fill_(mask, 0)

    def weights(rows: Tensor) -> Tensor:
        return torch.index_select(table, 0, distances(rows).reshape(-1)).view(rows.shape)

    return by_rows(weights, logits, dtype=table.dtype)


def distances(rows: Tensor) -> Tensor:
    """max(row) - x, int32, for int8 or int16 [M, N]."""
    maximum = rows.amax(-1, keepdim=True)
    if rows.dtype == torch.int8:
        # the difference wraps modulo 2^8, and read as unsigned it is the distance 0..255 again
        return (maximum - rows).view(torch.uint8).to(torch.int32)
    return maximum.to(torch.int32) - rows.to(torch.int32)


def derive_mean(ratio: Tensor | float, bits: int) -> tuple[Tensor, Tensor]:
    """(m, e) of `weighted_mean` with ratio ~ m / 2^e: the values' scale over the output's. m < 2^53, e capped.

    Returns:
        int64 of the ratio's shape.

    Raises:
        IntVitError: the ratio is not finite and positive, or too large for e >= 1.
    """
    (ratio,) = reals(ratio)
    positive = torch.isfinite(ratio) & (ratio > 0)
    require(positive, lambda: f"ratio of scales is {float(ratio)}: scales must be finite and positive")
    shift = (52 - exponent_of(ratio)).clamp(max=shift_cap(bits))
    require(
        shift >= 1,
        lambda: f"ratio of scales {float(ratio):g} is not below 2^51: the output scale is too small; calibrate it",
    )
    shift = shift.clamp(min=1)
    return torch.floor(ratio * power_of_two(shift) + 0.5).to(torch.int64), shift


def weighted_mean(sums: Tensor, total: Tensor, m: int | Tensor, e: int | Tensor, bits: int) -> Tensor:
    """clamp((sums * floor(m / total) + 2^(e-1)) >> e): sum(p v) / sum(p) times m / 2^e, signed `bits` bits.

    Args:
        sums: integers [..., D], sums of weights times values of 8 bits, |sums| <= 255 * total.
        total: integers [..., 1], the sum of the row's weights, 1 <= total < 2^31.
        m, e: from `derive_mean`; integers or int64 tensors of no axis.

    Returns:
        int64 [..., D]. |sums * floor(m / total)| <= 255 * m < 2^61.
    """
    low, high = limits(bits)
    factor = torch.div(torch.as_tensor(m, device=total.device), total.to(torch.int64), rounding_mode="floor")
    return ((sums.to(torch.int64) * factor + (torch.ones_like(factor) << (e - 1))) >> e).clamp(low, high)


def weighted_mean_float64(
    sums: Tensor, total: Tensor, m: Tensor, e: Tensor, bits: int, peaks: Tensor | None = None
) -> Tensor:
    """`weighted_mean` in float64: equal to it for e <= shift_cap(bits).

    Why: m / total lies at least 1 / total below the next integer unless it is one, and half its float64 step is below
    m * 2^-53 / total < 1 / total, so that its floor is exact. Then as in `requantize_float64`: a result that does not
    saturate is a multiple of 2^-e below 2^(53-e), so that product and sum are exact; the others saturate alike.

    peaks: float64 [...], filled with the largest |value| of each row before it is rounded.

    Returns:
        tensor of sums' shape, dtype `container(bits)`.
    """
    low, high = limits(bits)
    step = (torch.ones_like(e) << e).double()
    factor = torch.floor(m.double() / total.double()).div_(step)
    value = sums.double() * factor
    if peaks is not None:
        torch.maximum(value.amax(-1), -value.amin(-1), out=peaks)
    return value.add_(0.5).floor_().clamp_(low, high).to(container(bits))
