"""I-BERT's GELU (arXiv 2101.01321, i-gelu)."""

import math

from intvit.arithmetic.activations import GELU_FAMILIES, output_ratio
from intvit.arithmetic.gelu import PolynomialGelu
from intvit.arithmetic.scales import check_activation, fraction_bits


@GELU_FAMILIES.register("ibert")
def derive(scale_in: float, scale_out: float, bits_in: int, bits_out: int, *, site: str = "gelu") -> PolynomialGelu:
    """The erf polynomial: -0.2888 (min(|z|, 1.769) - 1.769)^2 + 1 with z = x / sqrt 2."""
    check_activation(scale_in, bits_in, site)
    f = fraction_bits(scale_in, 256)
    step = math.ldexp(scale_in, -f) / math.sqrt(2)
    unit = -0.2888 * step * step  # real value of one unit of L
    b, one = math.floor(-1.769 / step), math.floor(1.0 / unit)
    # b^2 < -c = -one, so c <= (a + b)^2 + c < 0 and |L + one| <= 2 * -one
    operand_bits = (2 * -one << (bits_in - 1 + f)).bit_length()
    m, e = output_ratio(math.ldexp(scale_in, -f) * unit / 2 / scale_out, bits_out, operand_bits, site)
    return PolynomialGelu(f, b, one, one, m, e, bits_out)
