"""Piecewise polynomials."""

from intvit.arithmetic.activations import GELU_FAMILIES, output_ratio
from intvit.arithmetic.gelu import PiecewiseGelu
from intvit.arithmetic.piecewise import gelu_pieces, integerize
from intvit.arithmetic.scales import check_activation
from intvit.errors import IntVitError


@GELU_FAMILIES.register("ppoly")
def derive(
    scale_in: float,
    scale_out: float,
    bits_in: int,
    bits_out: int,
    *,
    segments: int,
    degree: int,
    coefficient_bits: int,
    site: str = "gelu",
) -> PiecewiseGelu:
    """Piecewise polynomial of optimized segments with signed coefficients of `coefficient_bits` bits.

    The amplitude (integer units of 1.0) is as large as the coefficients allow.
    """
    check_activation(scale_in, bits_in, site)
    if not 6 <= coefficient_bits <= 24:
        raise IntVitError(f"{site}: coefficient_bits is {coefficient_bits}; expected 6 to 24")
    half = 1 << (bits_in - 1)
    limit = (1 << (coefficient_bits - 1)) - 1
    pieces = gelu_pieces(half * scale_in, segments, degree)
    amplitude = limit / (half * scale_in)  # |GELU(z)| <= |z|, so every c_0 fits
    fields = None
    while fields is None:
        fields = integerize(pieces, scale_in, -half, half - 1, amplitude, limit)
        amplitude /= 2
    m, e = output_ratio(1.0 / (2 * amplitude * scale_out), bits_out, 31, site)
    return PiecewiseGelu(*fields, m, e, bits_out)
