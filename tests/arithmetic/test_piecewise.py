"""Piecewise polynomials: fits cover their interval, more segments are better, and evaluation is exact."""

import math
from itertools import pairwise

import pytest
import torch

from intvit.arithmetic.fits import exponential_pieces, gelu_pieces
from intvit.arithmetic.piecewise import evaluate_pieces, integerize
from tests.arithmetic import reference


def fitted(fit, reach: float, segments: int, degree: int) -> list[tuple]:
    """(low, high, middle, half, coefficients) of every piece that is somewhere."""
    pieces = fit(torch.tensor(reach, dtype=torch.float64), 2.0**-3, segments, degree)
    low, middle, half, coefficients = (part.tolist() for part in vars(pieces).values())
    whole = zip(low, [*low[1:], math.inf], middle, half, coefficients, strict=True)
    return [piece for piece in whole if piece[0] < piece[1]]


def value(pieces, z: float) -> float:
    _, _, middle, half, coefficients = next(p for p in pieces if p[0] <= z < p[1])
    u = (z - middle) / half
    return sum(c * u**j for j, c in enumerate(coefficients))


def largest_error(pieces, function, low: float, high: float) -> float:
    points = torch.linspace(low, high, 2000, dtype=torch.float64).tolist()
    return max(abs(value(pieces, z) - function(z)) for z in points)


def gelu(z: float) -> float:
    return z * (1 + math.erf(z / math.sqrt(2))) / 2


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_error_falls_with_every_doubling_of_the_segments(degree):
    errors = [largest_error(fitted(gelu_pieces, 4.0, s, degree), gelu, -4, 4) for s in (2, 4, 8, 16)]
    assert all(second < 0.7 * first for first, second in pairwise(errors))
    fits = [fitted(exponential_pieces, 8.0, s, degree) for s in (2, 4, 8, 16)]
    errors = [largest_error(pieces, lambda z: math.exp(-z), 0, 8) for pieces in fits]
    assert all(second < 0.7 * first for first, second in pairwise(errors))


@pytest.mark.parametrize(
    ("reach", "exponential", "activation"),
    # pieces that are somewhere, and the real numbers that the fit between them covers
    [(0.125, (8, 0.125), (8, 0.125)), (0.3, (8, 0.5), (8, 0.5)), (4.4, (8, 8.0), (8, 4.5)), (4.6, (8, 8.0), (10, 4.5))]
    + [(9.0, (8, 10.0), (10, 4.5)), (10.0, (8, 10.0), (10, 4.5)), (10.1, (9, 10.0), (10, 4.5))],
)
def test_pieces_cover_the_reach_rounded_up_to_a_power_of_two_and_no_more(reach, exponential, activation):
    for fit, function, (count, high) in (
        (exponential_pieces, lambda z: math.exp(-z), exponential),
        (gelu_pieces, gelu, activation),
    ):
        pieces = fitted(fit, reach, 8, 2)
        assert len(pieces) == count
        assert pieces[0][0] == (0.0 if fit is exponential_pieces else -math.inf)
        _, _, middle, half, _ = (pieces[1:-1] if len(pieces) == 10 else pieces[:8])[-1]  # of the fit
        assert middle + half == pytest.approx(high, rel=1e-15)
        assert largest_error(pieces, function, 0 if fit is exponential_pieces else -reach, reach) < 0.02


@pytest.mark.parametrize(("segments", "degree"), [(0, 2), (8, 0), (8, 5), (65, 2)])
def test_shapes_beyond_the_fit_are_errors(segments, degree):
    with pytest.raises(ValueError, match=r"expected 1\.\.64 and 1\.\.4"):
        fitted(gelu_pieces, 1.0, segments, degree)


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


def test_the_amplitude_is_the_first_whose_coefficients_fit_and_none_is_found_where_none_do():
    scale = torch.tensor(1.0, dtype=torch.float64)
    pieces = gelu_pieces(scale * 128, 2.0**-7, 2, 1)
    amplitudes = 2.0 ** torch.arange(15, 0, -1, dtype=torch.float64)
    integers = integerize(pieces, scale, -128, 127, amplitudes, 2**15 - 1)
    assert integers.found
    assert integers.amplitude == 2.0**13  # the identity's slope of 1, doubled by the smallest step shift
    assert integers.coefficients.abs().max() <= 2**15 - 1
    assert not integerize(pieces, scale, -128, 127, amplitudes[:1], 2**15 - 1).found
