"""Piecewise polynomials: optimized fits of real functions, and their integer form at a given scale.

A fit is made once per real interval (cached); `integerize` turns it into integers for a scale, cheaply enough for every
training step. `evaluate_pieces` is the normative integer evaluation. Fits and integers are equal on every processor:
float64 operations that IEEE 754 rounds correctly, in a fixed order, and no matrix products.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from intvit.arithmetic import elementary
from intvit.arithmetic.dyadic import divide
from intvit.errors import IntVitError

_GRID = 240  # candidate bounds of a fit
_EXPONENTIAL_RANGE = 10.0  # e^-10 = 4.5e-5: a longer range costs more accuracy where it matters
_GELU_RANGE = 4.5  # GELU(-4.5) = -1.5e-5: beyond, GELU is 0 or x to 16 bits
# t^j minus a multiple of Chebyshev's polynomial of degree j: the nearest polynomial of lower degree on [-1, 1]
_LOWER_DEGREE = {1: {}, 2: {0: 0.5}, 3: {1: 0.75}, 4: {2: 1.0, 0: -0.125}}


def evaluate_pieces(x: Tensor, bounds: Tensor, origins: Tensor, coefficients: Tensor, step_shift: int) -> Tensor:
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
    value = rows[..., -1]
    for j in range(coefficients.shape[1] - 2, -1, -1):
        value = ((value * t + (1 << (step_shift - 1))) >> step_shift) + rows[..., j]
    return value


@dataclass(frozen=True)
class Piece:
    """sum_j coefficients[j] * ((z - middle) / half)^j for low <= z < high (which may be infinite)."""

    low: float
    high: float
    middle: float
    half: float
    coefficients: tuple[float, ...]


def exponential_pieces(reach: float, segments: int, degree: int) -> tuple[Piece, ...]:
    """Fit of e^-z for 0 <= z <= reach (rounded up to a power of two) by `segments` polynomials; zero beyond 10."""
    high = _power_of_two(reach, _EXPONENTIAL_RANGE)
    pieces = _fit("exponential", 0.0, high, segments, degree)
    if reach <= high:
        return pieces
    return (*pieces, Piece(high, math.inf, high, 1.0, (0.0,) * (degree + 1)))


def gelu_pieces(reach: float, segments: int, degree: int) -> tuple[Piece, ...]:
    """Fit of GELU(z) for |z| <= reach, by `segments` polynomials; 0 and z beyond 4.5."""
    high = _power_of_two(reach, _GELU_RANGE)
    pieces = _fit("gelu", -high, high, segments, degree)
    if reach <= high:
        return pieces
    rest = (0.0,) * (degree - 1)
    left = Piece(-math.inf, -high, -high, 1.0, (0.0, 0.0, *rest))
    return (left, *pieces, Piece(high, math.inf, high, 1.0, (high, 1.0, *rest)))


def _power_of_two(reach: float, largest: float) -> float:
    """reach rounded up to a power of two (few different fits, each cached), at most `largest`."""
    mantissa, exponent = math.frexp(reach)
    return min(largest, math.ldexp(1.0, exponent - (mantissa == 0.5)))


def _between_absolute_and_relative(z: Tensor) -> Tensor:
    """(e^-z + 0.001)^-1/2, by C's root, which is correctly rounded; that of torch may be a library's."""
    return torch.tensor([1.0 / math.sqrt(value) for value in (elementary.exp(-z) + 1e-3).tolist()], dtype=torch.float64)


# Function, and weight of the error of a piece that starts at z. The exponential's keeps the many small terms of a long
# row from moving the sum (measured: halves the error of probabilities).
_FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "exponential": (lambda z: elementary.exp(-z), _between_absolute_and_relative),
    "gelu": (elementary.gelu, torch.ones_like),
}


@functools.lru_cache(maxsize=256)
def _fit(function: str, low: float, high: float, segments: int, degree: int) -> tuple[Piece, ...]:
    """Segment bounds and polynomials that make the largest error least, on a grid of bounds.

    The error of one polynomial over every pair of grid points is tabulated; a dynamic program then picks the bounds.
    Each polynomial interpolates at Chebyshev's nodes, and its constant is moved to balance the errors' extremes.
    """
    if not 1 <= degree <= 4 or not 1 <= segments <= 64:
        raise IntVitError(f"piecewise polynomials of {segments} segments and degree {degree}; expected 1..64 and 1..4")
    grid = divide(torch.arange(_GRID + 1, dtype=torch.float64) * (high - low), _GRID) + low
    start, end = torch.triu_indices(_GRID + 1, _GRID + 1, 1)
    value, weight = _FUNCTIONS[function]
    coefficients, error = _interpolate(value, grid[start], grid[end], degree)
    table = torch.full((_GRID + 1, _GRID + 1), math.inf, dtype=torch.float64)
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
    index[start, end] = torch.arange(start.numel())
    return tuple(_piece(float(grid[a]), float(grid[b]), coefficients[index[a, b]].tolist()) for a, b in pairwise(ends))


def _piece(low: float, high: float, coefficients: list[float]) -> Piece:
    return Piece(low, high, (low + high) / 2, (high - low) / 2, tuple(coefficients))


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


def integerize(
    pieces: tuple[Piece, ...], scale: float, first: int, last: int, amplitude: float, limit: int, quantum: int = 1
) -> tuple[Tensor, Tensor, Tensor, int] | None:
    """Integers of `evaluate_pieces` for inputs x in [first, last] of a scale: value ~ amplitude * f(x * scale).

    The step shift is the largest that keeps |coefficients| <= limit. Each coefficient is rounded to a multiple of
    `quantum`, highest degree first, and its rounding error passed on to the lower ones (nearest polynomial of lower
    degree), so that the error does not grow with the segment's width.

    Returns:
        (bounds [S-1], origins [S], coefficients [S, D+1], step_shift), int64 tensors and an integer; None where no step
        shift >= 1 keeps the coefficients in the limit.
    """
    starts = [first] + [min(max(math.ceil(p.low / scale), first), last + 1) for p in pieces[1:]]
    ends = [*(s - 1 for s in starts[1:]), last]
    origins, slopes, reaches = [], [], []
    for piece, start, end in zip(pieces, starts, ends, strict=True):
        origin = (start + end) // 2 if start <= end else 0
        origins.append(origin)
        reaches.append(max(end - origin, origin - start) if start <= end else 0)
        local = _around(piece, origin * scale, scale) if start <= end else [0.0] * len(piece.coefficients)
        slopes.append([amplitude * c for c in local])
    shift = _step_shift(slopes, reaches, limit)
    if shift < 1:
        return None
    rows = [_round(row, reach, shift, limit, quantum) for row, reach in zip(slopes, reaches, strict=True)]
    return torch.tensor(starts[1:], dtype=torch.int64), torch.tensor(origins), torch.tensor(rows), shift


def _around(piece: Piece, origin: float, scale: float) -> list[float]:
    """Coefficients of the piece in powers of the integer step t, z = origin + t * scale."""
    c, delta, ratio = list(piece.coefficients), (origin - piece.middle) / piece.half, scale / piece.half
    for i in range(len(c) - 1):
        for j in range(len(c) - 2, i - 1, -1):
            c[j] += delta * c[j + 1]
    power = 1.0
    for j in range(1, len(c)):
        power *= ratio
        c[j] *= power
    return c


def _step_shift(slopes: list[list[float]], reaches: list[int], limit: int) -> int:
    """Largest g <= 30 with |a_j| * 2^(g j) <= limit over the pieces that have more than one input."""
    shift = 30
    for j in range(1, len(slopes[0])):
        largest = max((abs(row[j]) for row, reach in zip(slopes, reaches, strict=True) if reach), default=0.0)
        if largest > 0:
            exponent = math.frexp(limit / largest)[1] - 1  # floor(log2), exact
            shift = min(shift, exponent // j)
    return shift


def _round(row: list[float], reach: int, shift: int, limit: int, quantum: int) -> list[int]:
    top = limit // quantum
    width = math.ldexp(reach, -shift)  # largest t / 2^g
    square = width * width
    real = [math.ldexp(a, shift * j) for j, a in enumerate(row)] if reach else [row[0]] + [0.0] * (len(row) - 1)
    out = [0] * len(row)
    for j in range(len(row) - 1, -1, -1):
        out[j] = quantum * max(-top, min(top, math.floor(real[j] / quantum + 0.5)))
        for lower, weight in _LOWER_DEGREE.get(j, {}).items():
            real[lower] += (real[j] - out[j]) * weight * (square if j - lower == 2 else square * square)
    return out
