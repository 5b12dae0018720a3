"""Shiftmax (I-ViT, arXiv 2207.01405)."""

from torch import Tensor

from intvit.arithmetic.exponent import ShiftExponent
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES
from intvit.arithmetic.scales import largest_exponential, proven_scale, shift_parameters


@SOFTMAX_FAMILIES.register("ivit", grid=lambda options: 1.0 if options.get("paper") else None)
def derive(scale: Tensor, row_length: int, bits: int, *, paper: bool, site: str = "softmax") -> ShiftExponent:
    """n is the largest that the row's length allows.

    `paper`: x0 = floor(-1 / scale) at the logits' own resolution, without fraction bits, and n = 15 where the row's
    length allows it. The paper's normalization (`floor`) needs sums this far below 2^31: its reciprocal has few bits.
    """
    x0, n, f = shift_parameters(proven_scale(scale, site), largest_exponential(row_length, site), paper=paper)
    return ShiftExponent(x0, n.clamp(max=15) if paper else n, f)
