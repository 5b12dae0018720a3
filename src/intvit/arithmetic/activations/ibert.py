"""I-BERT's GELU (arXiv 2101.01321, i-gelu)."""

import math

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES, output_ratio, proven_output
from intvit.arithmetic.dyadic import divide
from intvit.arithmetic.elementary import bit_length, power_of_two
from intvit.arithmetic.gelu import PolynomialGelu
from intvit.arithmetic.scales import fraction_bits, proven_activation


@GELU_FAMILIES.register("ibert")
def derive(scale_in: Tensor, scale_out: Tensor, bits_in: int, bits_out: int, *, site: str = "gelu") -> PolynomialGelu:
    """The erf polynomial: -0.2888 (min(|z|, 1.769) - 1.769)^2 + 1 with z = x / sqrt 2."""
    scale_in, scale_out = proven_activation(scale_in, bits_in, site), proven_output(scale_out, site)
    f = fraction_bits(scale_in, 256)
    fine = scale_in * power_of_two(-f)
    step = divide(fine, math.sqrt(2))
    unit = step * -0.2888 * step  # real value of one unit of L
    b, one = (torch.floor(divide(*pair)).to(torch.int64) for pair in ((-1.769, step), (1.0, unit)))
    # b^2 < -c = -one, so c <= (a + b)^2 + c < 0 and |L + one| <= 2 * -one
    operand_bits = bit_length(-one) + 1 + (bits_in - 1) + f
    m, e = output_ratio(fine * unit * 0.5 / scale_out, bits_out, operand_bits, site)
    return PolynomialGelu(f, b, one, one, m, e, bits_out)
