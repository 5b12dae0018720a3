"""Fits of real functions by piecewise polynomials, one for every power of two that their inputs may reach.

A fit depends on the inputs' reach through its power of two alone. Those are a dozen, all made at the first call (30 ms
each), so that a derivation picks one on the device of its scale. Fits are equal on every processor: float64 operations
that IEEE 754 rounds correctly, in a fixed order, and no matrix products.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from intvit.arithmetic import elementary
from intvit.arithmetic.dyadic import divide
from intvit.errors import IntVitError

_GRID = 240  # candidate bounds of a fit
_CPU = torch.device("cpu")
# Where a fit ends at the latest. e^-10 = 4.5e-5: a longer range costs more accuracy where it matters. GELU(-4.5) =
# -1.5e-5: beyond, GELU is 0 or x to 16 bits.
_LARGEST = {"exponential": 10.0, "gelu": 4.5}


@dataclass(frozen=True, eq=False)
class Pieces:
    """P polynomials of z, sum_j coefficients[j] * ((z - middle) / half)^j, each from its low to that of the next.

    low, middle, half: float64 [P]; coefficients: float64 [P, degree + 1]. An infinite low is before or after all z.
    """

    low: Tensor
    middle: Tensor
    half: Tensor
    coefficients: Tensor


def exponential_pieces(reach: Tensor, smallest: float, segments: int, degree: int) -> Pieces:
    """Fit of e^-z for 0 <= z <= reach (rounded up to a power of two) by `segments` polynomials; zero beyond 10.

    Args:
        reach: float64 of no axis, at least `smallest`, below which no fits are made.

    Returns:
        segments + 1 pieces, the last of them after all z unless the reach is beyond 10.
    """
    return _selected("exponential", reach, smallest, segments, degree)


def gelu_pieces(reach: Tensor, smallest: float, segments: int, degree: int) -> Pieces:
    """Fit of GELU(z) for |z| <= reach, by `segments` polynomials; 0 and z beyond 4.5. Arguments as above.

    Returns:
        segments + 2 pieces, the first and the last of them nowhere unless the reach is beyond 4.5.
    """
    return _selected("gelu", reach, smallest, segments, degree)


def _selected(function: str, reach: Tensor, smallest: float, segments: int, degree: int) -> Pieces:
    mantissa, exponent = math.frexp(smallest)
    first = exponent - (mantissa == 0.5)
    fits = _fits(function, first, segments, degree, reach.device)
    within = (elementary.ceil_log2(reach) - first).clamp(0, fits.low.shape[0] - 2)
    row = (within + (reach > _LARGEST[function])).view(1)
    return Pieces(*(part.index_select(0, row).squeeze(0) for part in vars(fits).values()))


@functools.cache
def _fits(function: str, first: int, segments: int, degree: int, device: torch.device) -> Pieces:
    """For reaches up to 2^first and every next power of two, up to the largest, and beyond it; stacked in front."""
    if device != _CPU:
        return Pieces(*(part.to(device) for part in vars(_fits(function, first, segments, degree, _CPU)).values()))
    largest = _LARGEST[function]
    reaches = [2.0**k for k in range(first, math.frexp(largest)[1])] + [largest, math.inf]
    rows = [_row(function, reach, segments, degree) for reach in reaches]
    parts = zip(*(zip(*row, strict=True) for row in rows), strict=True)  # of every row, its lows, its middles, ...
    return Pieces(*(torch.tensor(part, dtype=torch.float64, device=_CPU) for part in parts))


class _Piece(NamedTuple):
    low: float
    middle: float
    half: float
    coefficients: tuple[float, ...]


def _row(function: str, reach: float, segments: int, degree: int) -> list[_Piece]:
    high, beyond = min(reach, _LARGEST[function]), reach == math.inf
    zero = (0.0,) * (degree + 1)
    right = _Piece(high if beyond else math.inf, high, 1.0, zero)
    if function == "exponential":
        return [*_fit(function, 0.0, high, segments, degree), right]
    first, *others = _fit(function, -high, high, segments, degree)
    first = first if beyond else first._replace(low=-math.inf)
    left = _Piece(-math.inf, -high, 1.0, zero)
    return [left, first, *others, right._replace(coefficients=(high, 1.0, *zero[2:]))]


def _between_absolute_and_relative(z: Tensor) -> Tensor:
    """(e^-z + 0.001)^-1/2, by C's root, which is correctly rounded; that of torch may be a library's."""
    roots = [1.0 / math.sqrt(value) for value in (elementary.exp(-z) + 1e-3).tolist()]
    return torch.tensor(roots, dtype=torch.float64, device=_CPU)


# Function, and weight of the error of a piece that starts at z. The exponential's keeps the many small terms of a long
# row from moving the sum (measured: halves the error of probabilities).
_FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exponential": (lambda z: elementary.exp(-z), _between_absolute_and_relative),
    "gelu": (elementary.gelu, torch.ones_like),
}


@functools.cache
def _fit(function: str, low: float, high: float, segments: int, degree: int) -> list[_Piece]:
    """Segment bounds and polynomials that make the largest error least, on a grid of bounds.

    The error of one polynomial over every pair of grid points is tabulated; a dynamic program then picks the bounds.
    Each polynomial interpolates at Chebyshev's nodes, and its constant is moved to balance the errors' extremes.
    """
    if not 1 <= degree <= 4 or not 1 <= segments <= 64:
        raise IntVitError(f"piecewise polynomials of {segments} segments and degree {degree}; expected 1..64 and 1..4")
    grid = divide(torch.arange(_GRID + 1, dtype=torch.float64, device=_CPU) * (high - low), _GRID) + low
    start, end = torch.triu_indices(_GRID + 1, _GRID + 1, 1, device=_CPU)
    value, weight = _FUNCTIONS[function]
    coefficients, error = _interpolate(value, grid[start], grid[end], degree)
    table = torch.full((_GRID + 1, _GRID + 1), math.inf, dtype=torch.float64, device=_CPU)
    table[start, end] = error * weight(grid)[start]
    best, previous = table[0], []
    for _ in range(segments - 1):
        candidates = torch.maximum(best[:, None], table)  # [end of the pieces so far, end of the next]
        best, choice = candidates.min(0)
        previous.append(choice)
    ends = [_GRID]
    for choice in reversed(previous):
        ends.append(int(choice[ends[-1]]))
    ends = [0, *reversed(ends)]
    index = torch.zeros_like(table, dtype=torch.int64)
    index[start, end] = torch.arange(start.numel(), device=_CPU)
    bounds = [(float(grid[a]), float(grid[b]), tuple(coefficients[index[a, b]].tolist())) for a, b in pairwise(ends)]
    return [_Piece(low, (low + high) / 2, (high - low) / 2, polynomial) for low, high, polynomial in bounds]


def _interpolate(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Polynomials on P intervals: coefficients [P, degree+1] of the variable scaled to [-1, 1], largest error [P]."""
    nodes, inverse, points = _chebyshev(degree)
    middle, half = (low + high) * 0.5, (high - low) * 0.5
    values = [function(middle + half * node) for node in nodes]
    coefficients = [_ordered_sum([value * c for value, c in zip(values, row, strict=True)]) for row in inverse]
    top, bottom = torch.full_like(low, -math.inf), torch.full_like(low, math.inf)
    for point in points:
        error = function(middle + half * point) - _horner(coefficients, point)
        top, bottom = torch.maximum(top, error), torch.minimum(bottom, error)
    coefficients[0] = coefficients[0] + (top + bottom) * 0.5
    return torch.stack(coefficients, 1), (top - bottom) * 0.5


def _ordered_sum(terms: list[Tensor]) -> Tensor:
    """Left to right: a reduction's order depends on the processor's vectors."""
    return functools.reduce(torch.add, terms)


def _horner(coefficients: list[Tensor], point: float) -> Tensor:
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * point + coefficient
    return value


@functools.cache
def _chebyshev(degree: int) -> tuple[list[float], list[list[float]], list[float]]:
    """Chebyshev's nodes of a degree, the inverse of their Vandermonde matrix (row j: weights of the values in c_j), and
    25 points of the error; computed with 50 digits and rounded once.
    """
    import mpmath

    with mpmath.workdps(50):
        nodes = [mpmath.cos((i + mpmath.mpf(1) / 2) * mpmath.pi / (degree + 1)) for i in range(degree + 1)]
        inverse = mpmath.matrix([[node**j for j in range(degree + 1)] for node in nodes]) ** -1
        rows = [[float(inverse[j, i]) for i in range(degree + 1)] for j in range(degree + 1)]
        return [float(node) for node in nodes], rows, [float(mpmath.cos(i * mpmath.pi / 24)) for i in range(25)]
