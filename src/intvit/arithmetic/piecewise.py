"""Piecewise polynomials on integers: their evaluation, which is normative, and how a fit becomes integers at a scale.

A fit of real polynomials is made once (`fits.py`); `integerize` turns it into integers for a scale, on the scale's
device and cheaply enough for every training step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from intvit.arithmetic import elementary
from intvit.arithmetic.dyadic import divide, half_of
from intvit.arithmetic.fields import Integer
from intvit.arithmetic.fits import Pieces

# Where a piece starts that no input is in: a number that none reaches.
_NOWHERE = 2**31 - 1
# t^j minus a multiple of Chebyshev's polynomial of degree j: the nearest polynomial of lower degree on [-1, 1]
_LOWER_DEGREE = {1: {}, 2: {0: 0.5}, 3: {1: 0.75}, 4: {2: 1.0, 0: -0.125}}


def evaluate_pieces(x: Tensor, bounds: Tensor, origins: Tensor, coefficients: Tensor, step_shift: Integer) -> Tensor:
    """Integer piecewise polynomial: s = number of bounds <= x, t = x - origins[s], then Horner from the top.

    v = c_D; v = ((v * t + 2^(g-1)) >> g) + c_j for j = D-1 .. 0, with g = step_shift >= 1.

    Args:
        x: int64. bounds int64 [S-1] ascending, origins int64 [S], coefficients int64 [S, D+1] (c_0 .. c_D).

    Returns:
        int64 of x's shape. A derived piece's term c_j * (t / 2^g)^j is at most the amplitude times its real coefficient
        in the piece's own variable, so |v| < 2^30 with amplitudes below 2^24, |t| < 2^16 and |v * t| < 2^46.
    """
    segment = (x.unsqueeze(-1) >= bounds).sum(-1)
    t = x - origins[segment]
    rows = coefficients[segment]
    value, half = rows[..., -1], half_of(step_shift)
    for j in range(coefficients.shape[-1] - 2, -1, -1):
        value = ((value * t + half) >> step_shift) + rows[..., j]
    return value


@dataclass(frozen=True, eq=False)
class IntegerPieces:
    """What `evaluate_pieces` takes, int64, and the amplitude of its values, float64; `found`: whether there is one."""

    bounds: Tensor
    origins: Tensor
    coefficients: Tensor
    step_shift: Tensor
    amplitude: Tensor
    found: Tensor


def integerize(
    pieces: Pieces, scale: Tensor, first: int, last: int, amplitudes: Tensor, limit: int, quantum: int = 1
) -> IntegerPieces:
    """Integers of `evaluate_pieces` for inputs x in [first, last] of a scale: value ~ amplitude * f(x * scale).

    The amplitude is the first of `amplitudes` (float64 [A], descending) for which a step shift >= 1 keeps coefficients
    within +-limit, and the step shift the largest that does. Each coefficient is rounded to a multiple of `quantum`,
    highest degree first, and its rounding error passed on to the lower ones (nearest polynomial of lower degree), so
    that the error does not grow with the segment's width. A piece without any z in the fit is nowhere: it starts where
    no x is, and `without_nowhere` drops it.
    """
    low = pieces.low[1:]
    later = torch.ceil(divide(low, scale)).clamp(first, last + 1).to(torch.int64)
    bounds = torch.where(low.isinf(), torch.where(low > 0, _NOWHERE, -_NOWHERE), later)
    starts = torch.cat((later.new_full((1,), first), later))
    ends = torch.cat((later - 1, later.new_full((1,), last)))
    filled = starts <= ends
    origins = torch.where(filled, (starts + ends) >> 1, 0)
    reaches = torch.where(filled, torch.maximum(ends - origins, origins - starts), 0)
    local = [torch.where(filled, c, 0.0) for c in _around(pieces, origins.double() * scale, scale)]
    shifts = _step_shifts([torch.where(reaches > 0, c.abs(), 0.0).amax() for c in local], amplitudes, limit)
    found = shifts >= 1
    chosen = found.to(torch.int64).argmax().view(1)  # the first
    amplitude, shift = (values.index_select(0, chosen).squeeze(0) for values in (amplitudes, shifts.clamp(min=1)))
    coefficients = _rounded([amplitude * c for c in local], reaches, shift, limit, quantum)
    return IntegerPieces(bounds, origins, coefficients, shift, amplitude, found.any())


def without_nowhere(bounds: Tensor, origins: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces that are somewhere; reads the bounds on the host."""
    before, after = int((bounds == -_NOWHERE).sum()), int((bounds == _NOWHERE).sum())
    kept = slice(before, origins.shape[0] - after)
    return bounds[before : bounds.shape[0] - after], origins[kept], coefficients[kept]


def _around(pieces: Pieces, origin: Tensor, scale: Tensor) -> list[Tensor]:
    """Coefficients of the pieces in powers of the integer step t, z = origin + t * scale; [P] of every degree."""
    c = list(pieces.coefficients.unbind(-1))
    delta, ratio = (origin - pieces.middle) / pieces.half, divide(scale, pieces.half)
    for i in range(len(c) - 1):
        for j in range(len(c) - 2, i - 1, -1):
            c[j] = c[j] + delta * c[j + 1]
    power = torch.ones_like(ratio)
    for j in range(1, len(c)):
        power = power * ratio
        c[j] = c[j] * power
    return c


def _step_shifts(largest: list[Tensor], amplitudes: Tensor, limit: int) -> Tensor:
    """Largest g <= 30 with amplitude * |a_j| * 2^(g j) <= limit for every amplitude [A].

    largest: of every degree, max |a_j| over the pieces that have more than one input; rounding is monotone, so that the
    largest product is that of the largest coefficient.
    """
    shift = torch.full_like(amplitudes, 30, dtype=torch.int64)
    for j in range(1, len(largest)):
        product = amplitudes * largest[j]
        exponent = elementary.exponent(divide(float(limit), product)) - 1  # floor(log2), exact
        longest = torch.div(exponent, j, rounding_mode="floor")
        shift = torch.where(product > 0, torch.minimum(shift, longest), shift)
    return shift


def _rounded(slopes: list[Tensor], reaches: Tensor, shift: Tensor, limit: int, quantum: int) -> Tensor:
    """Coefficients of t / 2^shift, int64 [P, degree + 1]; of a piece with one input the constant alone."""
    top = float(limit // quantum)
    width = reaches.double() * elementary.power_of_two(-shift)  # largest t / 2^g
    square = width * width
    real = [torch.where(reaches > 0, a * elementary.power_of_two(shift * j), 0.0) for j, a in enumerate(slopes)]
    real[0] = slopes[0]
    out = list(real)
    for j in range(len(real) - 1, -1, -1):
        # quantum is a power of two, so that the product with 1 / quantum is exact
        out[j] = torch.floor(real[j] * (1.0 / quantum) + 0.5).clamp(-top, top) * float(quantum)
        for lower, weight in _LOWER_DEGREE.get(j, {}).items():
            error = (real[j] - out[j]) * weight
            real[lower] = real[lower] + error * (square if j - lower == 2 else square * square)
    return torch.stack(out, -1).to(torch.int64)
