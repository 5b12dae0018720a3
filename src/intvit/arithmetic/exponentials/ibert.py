"""I-BERT's polynomial exponential (arXiv 2101.01321, i-exp)."""

import torch
from torch import Tensor

from intvit.arithmetic.dyadic import divide
from intvit.arithmetic.elementary import LN2, bit_length, power_of_two
from intvit.arithmetic.exponent import PolynomialExponent, shift_round
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES
from intvit.arithmetic.scales import fraction_bits, largest_exponential, proven_scale


@SOFTMAX_FAMILIES.register("ibert")
def derive(scale: Tensor, row_length: int, bits: int, *, site: str = "softmax") -> PolynomialExponent:
    """At a resolution of 1/256: there floor(-ln 2 / step) is off by at most 0.6 %.

    step <= 1/256 gives b >= 346 > -x0 and b^2 + c > 2^17; |x << f| < 2^16 * 2^18.
    """
    scale, largest = proven_scale(scale, site), largest_exponential(row_length, site)
    f = fraction_bits(scale, 256)
    step = scale * power_of_two(-f)
    x0, b, c = (
        torch.floor(divide(constant, divisor)).to(torch.int64)
        for constant, divisor in ((-LN2, step), (1.353, step), (0.344, step * 0.35815 * step))
    )
    peak = b * b + c  # < 2.8 * 2^28 < 2^30 at step 2^-14
    left = bit_length(torch.div(largest, peak, rounding_mode="floor")) - 1
    # L >= 2^16 - 1, so that 15 places to the right are enough where the peak is above it
    right = torch.arange(1, 16, device=scale.device)
    too_few = (shift_round(peak.expand(right.shape), right) > largest).sum(0)
    u = torch.where(peak <= largest, left, -1 - too_few)
    # E(0) < 2^31 shifted right n = its bit length + 1 places rounds to 0: farther logits need no other value.
    n = bit_length((peak << u.clamp(min=0)) >> (-u).clamp(min=0)) + 1
    return PolynomialExponent(x0=x0, n=n, b=b, c=c, u=u, fraction_bits=f)
