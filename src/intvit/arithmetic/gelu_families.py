"""GELU families: from the real scales of input and output to the integers of a kind in `gelu.py`.

Every family takes input scales in [2^-14, 2^10] and inputs of at most 8 bits. An output scale so small that the output
ratio can't be encoded (some 2^20 times smaller than the input's) is a ValueError.
"""

import math

import torch

from intvit.arithmetic.dyadic import divide, encode_ratio, limits
from intvit.arithmetic.elementary import gelu
from intvit.arithmetic.gelu import FloatGelu, Gelu, PiecewiseGelu, PolynomialGelu, ShiftGelu, TableGelu
from intvit.arithmetic.piecewise import gelu_pieces, integerize
from intvit.arithmetic.softmax_families import check_scale, fraction_bits, shift_parameters


def _check(scale_in: float, bits_in: int, site: str) -> None:
    check_scale(scale_in, site)
    if not 2 <= bits_in <= 8:
        raise ValueError(f"{site}: GELU takes inputs of 2 to 8 bits, not {bits_in}")


def _output_ratio(ratio: float, bits_out: int, operand_bits: int, site: str) -> tuple[int, int]:
    try:
        return encode_ratio(ratio, bits_out, operand_bits=operand_bits)
    except ValueError as error:
        raise ValueError(f"{site}: {error}") from error


# The line that stands for 2^r overestimates it, and x * sigmoid(1.702 x) lies below GELU where most inputs are: the
# published slope leaves a bias of a third of an int8 step. 1.77 has the smallest squared error over normal inputs.
SIGMOID_SLOPE = 1.77
PAPER_SIGMOID_SLOPE = 1.702  # also where inputs stay within 2: there it fits better


def derive_ivit(
    scale_in: float, scale_out: float, bits_in: int, bits_out: int, *, paper: bool = False, site: str = "gelu"
) -> Gelu:
    """ShiftGELU. n is the largest that keeps an exponential below 2^30; `limit` splits its n halvings into two halves.

    e^-M takes n/2 of them at M = limit and leaves n/2 to negative z, so that the sigmoid ends within some
    2^-(n/2) of 1 and of 0 in every row: at the usual n = 25 that is 0.02 of an input step at |x| = 128. Any other limit
    makes one end worse. Inputs that span less than n halvings are resolved throughout; then the limit is their maximum.
    Scales above 2.5 take the exponential of 2.5, for which n/2 halvings are two steps: their sigmoid is all but 0 or 1
    beyond |x| = 1.

    `paper`: the published form, without fraction bits, n = 23 where the widths allow it, no cap on the row's maximum, a
    31-bit reciprocal, and a signed 8-bit sigmoid, which has 7 magnitude bits.
    """
    _check(scale_in, bits_in, site)
    top = (1 << (bits_in - 1)) - 1
    if paper:
        x0, n, f = shift_parameters(PAPER_SIGMOID_SLOPE * scale_in, (1 << 30) - 1, paper=True)
        n, limit, reciprocal_bits, sigmoid_bits = min(n, 23), top, 31, 7
    else:
        slope = SIGMOID_SLOPE if top * scale_in >= 2.0 else PAPER_SIGMOID_SLOPE
        x0, n, f = shift_parameters(slope * min(scale_in, 2.5), (1 << 30) - 1, resolution=64)
        limit = min(math.floor(n / 2 / _halvings_per_step(x0, f) + 0.5), top)
        reciprocal_bits, sigmoid_bits = 46, 16
    m, e = _output_ratio(math.ldexp(scale_in / scale_out, -sigmoid_bits), bits_out, 31, site)
    return ShiftGelu(x0, n, f, limit, reciprocal_bits, sigmoid_bits, m, e, bits_out)


def _halvings_per_step(x0: int, fraction_bits: int) -> float:
    """Halvings of `shift_exponential` per step of its argument; the shifts make log2(e) = 1.4427 a 1 + 1/2 - 1/16."""
    return math.ldexp(1.4375, fraction_bits) / -x0


def derive_ibert(scale_in: float, scale_out: float, bits_in: int, bits_out: int, *, site: str = "gelu") -> Gelu:
    """I-BERT's erf polynomial: -0.2888 (min(|z|, 1.769) - 1.769)^2 + 1 with z = x / sqrt 2."""
    _check(scale_in, bits_in, site)
    f = fraction_bits(scale_in, 256)
    step = math.ldexp(scale_in, -f) / math.sqrt(2)
    unit = -0.2888 * step * step  # real value of one unit of L
    b, one = math.floor(-1.769 / step), math.floor(1.0 / unit)
    # b^2 < -c = -one, so c <= (a + b)^2 + c < 0 and |L + one| <= 2 * -one
    operand_bits = (2 * -one << (bits_in - 1 + f)).bit_length()
    m, e = _output_ratio(math.ldexp(scale_in, -f) * unit / 2 / scale_out, bits_out, operand_bits, site)
    return PolynomialGelu(f, b, one, one, m, e, bits_out)


def _rounded_table(scale_in: float, scale_out: float, bits_in: int, bits_out: int, site: str) -> torch.Tensor:
    _check(scale_in, bits_in, site)
    low, high = limits(bits_out)
    half = 1 << (bits_in - 1)
    value = gelu(torch.arange(-half, half, dtype=torch.float64).mul_(scale_in))
    return torch.floor(divide(value, scale_out) + 0.5).clamp(low, high).to(torch.int64)


def derive_lut(scale_in: float, scale_out: float, bits_in: int, bits_out: int, *, site: str = "gelu") -> Gelu:
    """The exact GELU of each of the 2^bits_in inputs, rounded to the output's integers."""
    return TableGelu(_rounded_table(scale_in, scale_out, bits_in, bits_out, site), bits_out)


def derive_float(scale_in: float, scale_out: float, bits_in: int, bits_out: int, *, site: str = "gelu") -> Gelu:
    """As `lut` (a function of 8-bit integers is its table), but marked as not exportable."""
    return FloatGelu(_rounded_table(scale_in, scale_out, bits_in, bits_out, site), bits_out)


def derive_ppoly(
    scale_in: float,
    scale_out: float,
    bits_in: int,
    bits_out: int,
    *,
    segments: int = 8,
    degree: int = 2,
    coefficient_bits: int = 16,
    site: str = "gelu",
) -> Gelu:
    """Piecewise polynomial of optimized segments with signed coefficients of `coefficient_bits` bits.

    The amplitude (integer units of 1.0) is as large as the coefficients allow.
    """
    _check(scale_in, bits_in, site)
    if not 6 <= coefficient_bits <= 24:
        raise ValueError(f"{site}: coefficient_bits is {coefficient_bits}; expected 6 to 24")
    half = 1 << (bits_in - 1)
    limit = (1 << (coefficient_bits - 1)) - 1
    pieces = gelu_pieces(half * scale_in, segments, degree)
    amplitude = limit / (half * scale_in)  # |GELU(z)| <= |z|, so every c_0 fits
    fields = None
    while fields is None:
        fields = integerize(pieces, scale_in, -half, half - 1, amplitude, limit)
        amplitude /= 2
    m, e = _output_ratio(1.0 / (2 * amplitude * scale_out), bits_out, 31, site)
    return PiecewiseGelu(*fields, m, e, bits_out)


GELU_FAMILIES = {
    "ivit": derive_ivit,
    "ibert": derive_ibert,
    "ppoly": derive_ppoly,
    "lut": derive_lut,
    "float": derive_float,
}
