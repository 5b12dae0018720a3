"""ShiftGELU (I-ViT, arXiv 2207.01405)."""

import torch
from torch import Tensor

from intvit.arithmetic.activations import GELU_FAMILIES, output_ratio, proven_output
from intvit.arithmetic.elementary import power_of_two
from intvit.arithmetic.gelu import ShiftGelu
from intvit.arithmetic.scales import proven_activation, shift_parameters

# The line that stands for 2^r overestimates it, and x * sigmoid(1.702 x) lies below GELU where most inputs are: the
# published slope leaves a bias of a third of an int8 step. 1.77 has the smallest squared error over normal inputs.
SIGMOID_SLOPE = 1.77
PAPER_SIGMOID_SLOPE = 1.702  # also where inputs stay within 2: there it fits better


@GELU_FAMILIES.register("ivit", grid=lambda options: PAPER_SIGMOID_SLOPE if options.get("paper") else None)
def derive(
    scale_in: Tensor, scale_out: Tensor, bits_in: int, bits_out: int, *, paper: bool, site: str = "gelu"
) -> ShiftGelu:
    """n is the largest that keeps an exponential below 2^30; `limit` splits its n halvings into two halves.

    e^-M takes n/2 of them at M = limit and leaves n/2 to negative z, so that the sigmoid ends within some
    2^-(n/2) of 1 and of 0 in every row: at the usual n = 25 that is 0.02 of an input step at |x| = 128. Any other limit
    makes one end worse. Inputs that span less than n halvings are resolved throughout; then the limit is their maximum.
    Scales above 2.5 take the exponential of 2.5, for which n/2 halvings are two steps: their sigmoid is all but 0 or 1
    beyond |x| = 1.

    `paper`: the published form, without fraction bits, n = 23 where the widths allow it, no cap on the row's maximum, a
    31-bit reciprocal, and a signed 8-bit sigmoid, which has 7 magnitude bits.
    """
    scale_in, scale_out = proven_activation(scale_in, bits_in, site), proven_output(scale_out, site)
    top = (1 << (bits_in - 1)) - 1
    if paper:
        x0, n, f = shift_parameters(scale_in * PAPER_SIGMOID_SLOPE, (1 << 30) - 1, paper=True)
        n, limit, reciprocal_bits, sigmoid_bits = n.clamp(max=23), torch.full_like(n, top), 31, 7
    else:
        slope = torch.full_like(scale_in, SIGMOID_SLOPE)
        slope = slope.where(scale_in * float(top) >= 2.0, PAPER_SIGMOID_SLOPE)
        x0, n, f = shift_parameters(slope * scale_in.clamp(max=2.5), (1 << 30) - 1, resolution=64)
        limit = torch.floor(n.double() * 0.5 / _halvings_per_step(x0, f) + 0.5).to(torch.int64).clamp(max=top)
        reciprocal_bits, sigmoid_bits = 46, 16
    m, e = output_ratio(scale_in / scale_out * 2.0**-sigmoid_bits, bits_out, 31, site)
    return ShiftGelu(x0, n, f, limit, reciprocal_bits, sigmoid_bits, m, e, bits_out)


def _halvings_per_step(x0: Tensor, fraction_bits: Tensor) -> Tensor:
    """Halvings of `shift_exponential` per step of its argument; the shifts make log2(e) = 1.4427 a 1 + 1/2 - 1/16."""
    return power_of_two(fraction_bits) * 1.4375 / -x0.double()
