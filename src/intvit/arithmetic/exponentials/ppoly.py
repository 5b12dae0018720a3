"""Piecewise polynomials of the distance from the row's maximum."""

import functools

import torch
from torch import Tensor

from intvit.arithmetic.exponent import PiecewiseExponent, exponent_table
from intvit.arithmetic.exponentials import SOFTMAX_FAMILIES
from intvit.arithmetic.fits import exponential_pieces
from intvit.arithmetic.piecewise import integerize
from intvit.arithmetic.scales import SCALE_RANGE, largest_exponential, proven_scale
from intvit.arithmetic.validity import require
from intvit.errors import IntVitError


@SOFTMAX_FAMILIES.register("ppoly")
def derive(
    scale: Tensor,
    row_length: int,
    bits: int,
    *,
    segments: int,
    degree: int,
    coefficient_bits: int,
    site: str = "softmax",
) -> PiecewiseExponent:
    """Piecewise polynomial of optimized segments.

    max(E) >= 2^15 needs values of 16 bits; `coefficient_bits` below 16 makes the coefficients multiples of
    2^(16 - coefficient_bits), above 16 makes them longer.

    Raises:
        IntVitError: coefficient_bits outside 6..24, or pieces too coarse for 16-bit values.
    """
    scale, largest = proven_scale(scale, site), largest_exponential(row_length, site)
    if not 6 <= coefficient_bits <= 24:
        raise IntVitError(f"{site}: coefficient_bits is {coefficient_bits}; expected 6 to 24")
    last = (1 << bits) - 1
    pieces = exponential_pieces(scale * float(last), last * SCALE_RANGE[0], segments, degree)
    limit = (1 << max(16, coefficient_bits)) - 1
    quantum = 1 << max(0, 16 - coefficient_bits)
    amplitudes = _amplitudes(min(largest, limit), scale.device)
    integers = integerize(pieces, scale, 0, last, amplitudes, limit, quantum)
    require(
        integers.found,
        lambda: f"{site}: {segments} segments of degree {degree} need longer coefficients; use more segments",
    )
    exponent = PiecewiseExponent(integers.bounds, integers.origins, integers.coefficients, integers.step_shift)
    table = exponent_table(exponent, bits)
    require(
        (table.amax() <= largest) & (table[0] >= 1 << 15),
        lambda: f"{site}: {segments} segments of degree {degree} approximate e^x too coarsely; use more",
    )
    return exponent


@functools.cache
def _amplitudes(largest: int, device: torch.device) -> Tensor:
    """Of values below `largest` and of 16 bits, smaller where a steep piece's coefficients outgrow their limit.

    1/32 of headroom for the fit's error and the rounding of coefficients, which the derivation proves value by value.
    """
    amplitude, candidates = largest * (31 / 32), []
    while amplitude >= 1 << 15:
        candidates.append(amplitude)
        amplitude *= 15 / 16
    return torch.tensor(candidates, dtype=torch.float64, device=device)
