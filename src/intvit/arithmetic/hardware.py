"""Constants that suit hardware: shorter multipliers, one shift for a tensor, weights of a softmax by a shift alone.

From the multipliers and shifts that `dyadic` and its neighbours derive, by integer operations, equal on every device.
What comes out is a program like any other, a little further from the real ratios: by at most 2^-bits of the tensor's
largest with one shift, of each of them otherwise.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from intvit.arithmetic.elementary import bit_length
from intvit.arithmetic.validity import require

WeightRatio = Literal["any", "power_of_two"]


class Constants(Protocol):
    """What a multiplier may be: `quant.hardware`. Operands are the other factors."""

    @property
    def multiplier_bits(self) -> int: ...
    @property
    def common_shift(self) -> bool: ...
    @property
    def operand_bits(self) -> int: ...
    @property
    def weight_ratio(self) -> WeightRatio: ...


def shortened(shift: Tensor, *multipliers: Tensor, form: Constants) -> tuple[Tensor, ...]:
    """(shift, multipliers) of at most `multiplier_bits` bits, rounded half away from zero, for the same ratios.

    shift: int64 of any shape, >= 1. multipliers: int64 of its shape, below 2^53. With `common_shift` the tensor has one
    shift, at which its largest multiplier fits.

    Raises:
        IntVitError: a ratio is too large for a shift >= 1.
    """
    bits = form.multiplier_bits
    length = bit_length(torch.stack([m.abs() for m in multipliers]).amax(0))
    target = shift - (length - bits).clamp(min=0)
    if form.common_shift:
        target = torch.where(length == 0, 53, target).amin().expand(shift.shape)
    require(
        target >= 1,
        lambda: (
            f"a ratio of scales of 2^{bits - int(target.min())} or more does not fit a multiplier of {bits} bits; "
            "take quant/hardware=free, or calibrate the output's range"
        ),
    )
    target = target.clamp(min=1).contiguous()
    drop = (shift - target).clamp(min=0)
    half = (torch.ones_like(drop) << drop) >> 1
    rounded = (((m.abs() + half) >> drop).clamp(max=(1 << bits) - 1) * m.sign() for m in multipliers)
    return target, *rounded


def power_of_two(m: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """The largest power of two that m / 2^e is not below, as (1, e'), or (2^k, 1) where it is above 1/2; m >= 1."""
    shift = e - (bit_length(m) - 1)
    return torch.ones_like(m) << (1 - shift).clamp(min=0), shift.clamp(min=1)
