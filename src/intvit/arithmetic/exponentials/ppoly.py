"""Piecewise polynomials of the distance from the row's maximum."""

from intvit.arithmetic.exponent import PiecewiseExponent, exponent_table
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES
from intvit.arithmetic.piecewise import exponential_pieces, integerize
from intvit.arithmetic.scales import check_scale, largest_exponential
from intvit.errors import IntVitError


@SOFTMAX_FAMILIES.register("ppoly")
def derive(
    scale: float,
    row_length: int,
    bits: int,
    *,
    segments: int,
    degree: int,
    coefficient_bits: int,
    site: str = "softmax",
) -> PiecewiseExponent:
    """Piecewise polynomial of optimized segments.

    max(E) >= 2^15 needs values of 16 bits; `coefficient_bits` below 16 makes the coefficients multiples of
    2^(16 - coefficient_bits), above 16 makes them longer.

    Raises:
        IntVitError: coefficient_bits outside 6..24, or pieces too coarse for 16-bit values.
    """
    check_scale(scale, site)
    if not 6 <= coefficient_bits <= 24:
        raise IntVitError(f"{site}: coefficient_bits is {coefficient_bits}; expected 6 to 24")
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
        raise IntVitError(f"{site}: {segments} segments of degree {degree} need longer coefficients; use more segments")
    exponent = PiecewiseExponent(*fields)
    table = exponent_table(exponent, bits)
    if table.max() > largest or table[0] < 1 << 15:
        raise IntVitError(f"{site}: {segments} segments of degree {degree} approximate e^x too coarsely; use more")
    return exponent
