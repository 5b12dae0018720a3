"""The exact exponential, which has no integers: separates approximation error from quantization error."""

import torch
from torch import Tensor

from intvit.arithmetic.elementary import exp
from intvit.arithmetic.exponent import FloatExponent
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES, proven_logits
from intvit.arithmetic.scales import largest_exponential


@SOFTMAX_FAMILIES.register("float")
def derive(scale: Tensor, row_length: int, bits: int, *, site: str = "softmax") -> FloatExponent:
    """The table of `lut` without rounding."""
    scale = proven_logits(scale, bits, site)
    distance = torch.arange(1 << bits, dtype=torch.float64, device=scale.device)
    return FloatExponent(exp(distance * -scale) * float(largest_exponential(row_length, site)))
