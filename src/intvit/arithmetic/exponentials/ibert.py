"""I-BERT's polynomial exponential (arXiv 2101.01321, i-exp)."""

import math

from intvit.arithmetic.elementary import LN2
from intvit.arithmetic.exponent import PolynomialExponent
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES
from intvit.arithmetic.scales import check_scale, fraction_bits, largest_exponential


@SOFTMAX_FAMILIES.register("ibert")
def derive(scale: float, row_length: int, bits: int, *, site: str = "softmax") -> PolynomialExponent:
    """At a resolution of 1/256: there floor(-ln 2 / step) is off by at most 0.6 %.

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
