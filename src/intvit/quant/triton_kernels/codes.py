"""What kernels share beside integers: saturation, the real factor of a dyadic number, the largest magnitudes of images.

A magnitude is a float64 that is not negative, so that its bits, read as an int64, have its order: an atomic maximum of
integers keeps the largest one, whatever the order of the programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from intvit.runtime.cuda.kernels import integers


def empty_magnitudes(images: int, groups: int, observe: bool, like: Tensor) -> Tensor:
    """float64 (images, groups) of zeros, for kernels to raise; (0, groups) where nothing is observed."""
    return torch.zeros((images if observe else 0, groups), dtype=torch.float64, device=like.device)


@triton.jit
def saturate(y, BITS: tl.constexpr):
    """y limited to signed BITS bits, as int32."""
    return integers.clamp(y, -(1 << (BITS - 1)), (1 << (BITS - 1)) - 1)


@triton.jit
def unsaturated(code, BITS: tl.constexpr):
    """Whether codes stand at neither end of their BITS bits: where a gradient passes their quantizer."""
    return (code > -(1 << (BITS - 1))) & (code < (1 << (BITS - 1)) - 1)


@triton.jit
def real_factor(multiplier, shift):
    """multiplier / 2^shift as float64, exact: |multiplier| <= 2^53, 0 <= shift <= 1022."""
    power = ((1023 - shift.to(tl.int64)) << 52).to(tl.float64, bitcast=True)
    return multiplier.to(tl.float64) * power


@triton.jit
def magnitude(low, high):
    """The largest magnitude of integers between `low` and `high`, as float64."""
    return tl.maximum(tl.abs(low.to(tl.float64)), tl.abs(high.to(tl.float64)))


@triton.jit
def keep_largest(place, value):
    """Raise the float64 at `place`, whose pointer is an int64's, to `value` >= 0."""
    tl.atomic_max(place, value.to(tl.int64, bitcast=True), sem="relaxed")
