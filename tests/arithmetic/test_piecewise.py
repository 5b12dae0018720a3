"""Piecewise polynomials: fits cover their interval, more segments are better, and evaluation is exact."""

import math
from itertools import pairwise

import pytest
import torch

from intvit.arithmetic.piecewise import evaluate_pieces, exponential_pieces, gelu_pieces, integerize
from tests.arithmetic import reference


def value(pieces, z: float) -> float:
    piece = next(p for p in pieces if p.low <= z < p.high or z == p.high)
    u = (z - piece.middle) / piece.half
    return sum(c * u**j for j, c in enumerate(piece.coefficients))


def largest_error(pieces, function, low: float, high: float) -> float:
    points = torch.linspace(low, high, 2000, dtype=torch.float64).tolist()
    return max(abs(value(pieces, z) - function(z)) for z in points)


def gelu(z: float) -> float:
    return z * (1 + math.erf(z / math.sqrt(2))) / 2


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_error_falls_with_every_doubling_of_the_segments(degree):
    errors = [largest_error(gelu_pieces(4.0, s, degree), gelu, -4, 4) for s in (2, 4, 8, 16)]
    assert all(second < 0.7 * first for first, second in pairwise(errors))
    errors = [largest_error(exponential_pieces(8.0, s, degree), lambda z: math.exp(-z), 0, 8) for s in (2, 4, 8, 16)]
    assert all(second < 0.7 * first for first, second in pairwise(errors))


def test_pieces_cover_the_whole_reach_without_gaps():
    for pieces, low, high in (
        (gelu_pieces(100.0, 8, 2), -math.inf, math.inf),
        (gelu_pieces(0.3, 8, 2), -0.5, 0.5),
        (exponential_pieces(100.0, 8, 2), 0.0, math.inf),
        (exponential_pieces(0.3, 8, 2), 0.0, 0.5),
    ):
        assert pieces[0].low == low
        assert pieces[-1].high == high
        assert all(a.high == b.low for a, b in pairwise(pieces))


@pytest.mark.parametrize(("segments", "degree"), [(0, 2), (8, 0), (8, 5), (65, 2)])
def test_shapes_beyond_the_fit_are_errors(segments, degree):
    with pytest.raises(ValueError, match=r"expected 1\.\.64 and 1\.\.4"):
        gelu_pieces(1.0, segments, degree)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_evaluation_equals_unbounded_integers_at_extreme_coefficients(degree):
    generator = torch.Generator().manual_seed(degree)
    x = torch.arange(-128, 128)
    for shift in (1, 7, 30):
        bounds = torch.tensor([-128, -100, -100, 3, 3, 90, 128])
        origins = torch.randint(-128, 128, (8,), generator=generator)
        limit = 2**24 if degree < 3 or shift > 1 else 2**15
        coefficients = torch.randint(-limit, limit, (8, degree + 1), generator=generator)
        result = evaluate_pieces(x, bounds, origins, coefficients, shift)
        fields = (bounds.tolist(), origins.tolist(), coefficients.tolist(), shift)
        assert result.tolist() == [reference.pieces(v, *fields) for v in x.tolist()]


def test_coefficients_that_cannot_fit_are_refused_and_not_truncated():
    assert integerize(gelu_pieces(100.0, 2, 1), 1.0, -128, 127, 2.0**15, 2**15 - 1) is None
