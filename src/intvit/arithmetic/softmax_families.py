"""Softmax families: from a real logit scale and a row length to the integers of an exponent.

Every family keeps sum(E) < 2^31 over `row_length` logits and max(E) >= 2^15, for every scale in [2^-14, 2^10] and every
row length up to 2^15: with L = floor((2^31 - 1) / row_length) >= 2^16 - 1, the largest E is doubled while it is at most
L, so it ends above L / 2, that is at least 2^15.
"""

import math

import torch

from intvit.arithmetic.elementary import LN2, exp
from intvit.arithmetic.exponent import (
    Exponent,
    FloatExponent,
    PiecewiseExponent,
    PolynomialExponent,
    ShiftExponent,
    TableExponent,
    exponent_table,
)
from intvit.arithmetic.piecewise import exponential_pieces, integerize

SCALE_RANGE = (2.0**-14, 2.0**10)
ROW_LENGTH_LIMIT = 1 << 15


def check_scale(scale: float, site: str) -> None:
    """Raise ValueError naming the site unless the scale is in SCALE_RANGE, where every width is proven."""
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise ValueError(
            f"{site}: input scale {scale:g} is outside [2^-14, 2^10], where the integer widths are proven; "
            "clamp the observed range or choose another bit width"
        )


def fraction_bits(scale: float, resolution: int) -> int:
    """Smallest f >= 0 with scale * 2^-f <= 1 / resolution (a power of two)."""
    mantissa, exponent = math.frexp(scale * resolution)
    return max(0, exponent - (mantissa == 0.5))


def largest_exponential(row_length: int, site: str) -> int:
    """L = floor((2^31 - 1) / row_length): `row_length` exponentials up to L sum to less than 2^31."""
    if not 1 <= row_length <= ROW_LENGTH_LIMIT:
        raise ValueError(f"{site}: a row has {row_length} logits; expected 1 to {ROW_LENGTH_LIMIT}")
    return ((1 << 31) - 1) // row_length


def shift_parameters(scale: float, largest: int, *, paper: bool = False, resolution: int = 16) -> tuple[int, int, int]:
    """(x0, n, fraction_bits) of `shift_exponential` for a scale, with largest / 2 < -x0 << n <= largest.

    -x0 = ceil(2^f / scale) <= 2^14 for scale >= 2^-14, which is at most `largest`, so n >= 0. On long rows a resolution
    of 1/16 keeps -x0 small: E never falls below -x0, which n must keep far below -x0 << n (finer was measured worse).
    """
    f = 0 if paper else fraction_bits(scale, resolution)
    x0 = math.floor(-math.ldexp(1.0 / scale, f))
    return x0, (largest // -x0).bit_length() - 1, f


def derive_ivit(scale: float, row_length: int, bits: int, *, paper: bool = False, site: str = "softmax") -> Exponent:
    """Shiftmax (I-ViT). n is the largest that the row's length allows.

    `paper`: x0 = floor(-1 / scale) at the logits' own resolution, without fraction bits, and n = 15 where the row's
    length allows it. The paper's normalization (`floor`) needs sums this far below 2^31: its reciprocal has few bits.
    """
    check_scale(scale, site)
    x0, n, f = shift_parameters(scale, largest_exponential(row_length, site), paper=paper)
    return ShiftExponent(x0, min(n, 15) if paper else n, f)


def derive_ibert(scale: float, row_length: int, bits: int, *, site: str = "softmax") -> Exponent:
    """I-BERT's polynomial exponential, at a resolution of 1/256: there floor(-ln 2 / step) is off by at most 0.6 %.

    step <= 1/256 gives b >= 346 > -x0 and b^2 + c > 2^17; |x << f| < 2^16 * 2^18.
    """
    check_scale(scale, site)
    largest = largest_exponential(row_length, site)
    f = fraction_bits(scale, 256)
    step = math.ldexp(scale, -f)
    x0, b = math.floor(-LN2 / step), math.floor(1.353 / step)
    c = math.floor(0.344 / (0.35815 * step * step))
    peak = b * b + c  # < 2.8 * 2^28 < 2^30 at step 2^-14
    u = (largest // peak).bit_length() - 1 if peak <= largest else -1
    while u < 0 and (peak + (1 << (-u - 1))) >> -u > largest:
        u -= 1
    # E(0) < 2^31 shifted right n = its bit length + 1 places rounds to 0: farther logits need no other value.
    n = (peak << u if u >= 0 else peak >> -u).bit_length() + 1
    return PolynomialExponent(x0=x0, n=n, b=b, c=c, u=u, fraction_bits=f)


def derive_lut(scale: float, row_length: int, bits: int, *, site: str = "softmax") -> Exponent:
    """Table of 2^bits entries: L * e^(-d * scale), rounded."""
    return TableExponent(torch.floor(_real_table(scale, row_length, bits, site) + 0.5).to(torch.int64))


def derive_float(scale: float, row_length: int, bits: int, *, site: str = "softmax") -> Exponent:
    """The table of `lut` without rounding: not exportable."""
    return FloatExponent(_real_table(scale, row_length, bits, site))


def _real_table(scale: float, row_length: int, bits: int, site: str) -> torch.Tensor:
    check_scale(scale, site)
    if not 2 <= bits <= 16:
        raise ValueError(f"{site}: logits of {bits} bits; a table takes 2 to 16")
    distance = torch.arange(1 << bits, dtype=torch.float64)
    return exp(distance.mul_(-scale)).mul_(float(largest_exponential(row_length, site)))


def derive_ppoly(
    scale: float,
    row_length: int,
    bits: int,
    *,
    segments: int = 8,
    degree: int = 2,
    coefficient_bits: int = 16,
    site: str = "softmax",
) -> Exponent:
    """Piecewise polynomial of optimized segments.

    max(E) >= 2^15 needs values of 16 bits; `coefficient_bits` below 16 makes the coefficients multiples of
    2^(16 - coefficient_bits), above 16 makes them longer.

    Raises:
        ValueError: coefficient_bits outside 6..24, or pieces too coarse for 16-bit values.
    """
    check_scale(scale, site)
    if not 6 <= coefficient_bits <= 24:
        raise ValueError(f"{site}: coefficient_bits is {coefficient_bits}; expected 6 to 24")
    largest = largest_exponential(row_length, site)
    last = (1 << bits) - 1
    pieces = exponential_pieces(last * scale, segments, degree)
    limit = (1 << max(16, coefficient_bits)) - 1
    quantum = 1 << max(0, 16 - coefficient_bits)
    # 1/32 of headroom for the fit's error and the rounding of coefficients; proven below, value by value
    amplitude = min(largest, limit) * (31 / 32)
    fields = None
    while fields is None and amplitude >= 1 << 15:  # smaller where a steep piece's coefficients outgrow the limit
        fields = integerize(pieces, scale, 0, last, amplitude, limit, quantum)
        amplitude *= 15 / 16
    if fields is None:
        raise ValueError(f"{site}: {segments} segments of degree {degree} need longer coefficients; use more segments")
    exponent = PiecewiseExponent(*fields)
    table = exponent_table(exponent, bits)
    if table.max() > largest or table[0] < 1 << 15:
        raise ValueError(f"{site}: {segments} segments of degree {degree} approximate e^x too coarsely; use more")
    return exponent


SOFTMAX_FAMILIES = {
    "ivit": derive_ivit,
    "ibert": derive_ibert,
    "ppoly": derive_ppoly,
    "lut": derive_lut,
    "float": derive_float,
}
