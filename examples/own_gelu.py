"""An approximation of one's own: GELU as x times a straight line, clipped to [0, 1], with one multiplier.

    python train.py model=deit_s quant=lut8 quant.gelu.family=own_gelu:hard_gelu        in the folder of this file

Why one would: GELU(x) = x Phi(x), and Phi is nearly the line 1/2 + x/3.6 around 0. In hardware that is a product, a
clip and a shift: no table, no exponential, no division. It is off by 0.065 at most (at |x| = 1.1), which training
takes in its stride.

A family is a function on integers alone. `codes` are all inputs of the operator, int64; `scale` is the real value of
one step of them, `output_scale` that of the result. What it returns, integers again, becomes the operator's table in
training, in the exported program and in every runtime. Equal scales must give equal integers on every processor:
use integers, and of real numbers only + - * /, sqrt and floor, or intvit.arithmetic.elementary for exp and erf.
"""

import math

from torch import Tensor

SLOPE_BITS = 12  # the line in units of 2^-12: finer changes no 8-bit result
OUTPUT_BITS = 16  # of the multiplier that takes x * line to the output's steps


def hard_gelu(codes: Tensor, scale: float, output_scale: float) -> Tensor:
    """x * clip(1/2 + x / 3.6, 0, 1) for x = codes * scale, in steps of output_scale, rounded half up."""
    one = 1 << SLOPE_BITS
    slope = math.floor(one * scale / 3.6 + 0.5)  # of one input step
    line = (codes * slope + one // 2).clamp(0, one)
    multiplier = math.floor(scale / output_scale * (1 << OUTPUT_BITS) + 0.5)
    return (codes * line * multiplier + (1 << (SLOPE_BITS + OUTPUT_BITS - 1))) >> (SLOPE_BITS + OUTPUT_BITS)
