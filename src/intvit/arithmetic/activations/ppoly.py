"""Piecewise polynomials."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES, output_ratio, proven_output
from intvit.arithmetic.dyadic import divide
from intvit.arithmetic.elementary import power_of_two
from intvit.arithmetic.fits import gelu_pieces
from intvit.arithmetic.gelu import PiecewiseGelu
from intvit.arithmetic.piecewise import integerize
from intvit.arithmetic.scales import SCALE_RANGE, proven_activation
from intvit.errors import IntVitError

# Enough for every c_j: a piece with more than one input is at least half a step wide on either side, so that c_j in
# powers of the step is at most some 2^6 * 2^j * 3^4 times the amplitude, which starts below 2^7 * limit.
_HALVINGS = 41


@GELU_FAMILIES.register("ppoly")
def derive(
    scale_in: Tensor,
    scale_out: Tensor,
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
    scale_in, scale_out = proven_activation(scale_in, bits_in, site), proven_output(scale_out, site)
    if not 6 <= coefficient_bits <= 24:
        raise IntVitError(f"{site}: coefficient_bits is {coefficient_bits}; expected 6 to 24")
    half = 1 << (bits_in - 1)
    limit = (1 << (coefficient_bits - 1)) - 1
    reach = scale_in * float(half)
    pieces = gelu_pieces(reach, half * SCALE_RANGE[0], segments, degree)
    # |GELU(z)| <= |z|, so every c_0 fits at the first; the last is below 2^-40 of it, where every c_j does
    amplitudes = divide(float(limit), reach) * power_of_two(-torch.arange(_HALVINGS, device=reach.device))
    integers = integerize(pieces, scale_in, -half, half - 1, amplitudes, limit)
    m, e = output_ratio(divide(1.0, integers.amplitude * scale_out), bits_out, 31, site)
    return PiecewiseGelu(integers.bounds, integers.origins, integers.coefficients, integers.step_shift, m, e, bits_out)
