"""Integer square roots are exact for every input they promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intvit.arithmetic import integer_sqrt, integer_sqrt_float64, newton_sqrt
from tests.arithmetic import reference

EDGES = [0, 1, 2, 3, 2**31, 2**32 - 1, 2**52, 2**53 - 1, 2**53 + 1, 2**61, 2**62 - 1]


def around_squares() -> list[int]:
    generator = torch.Generator().manual_seed(0)
    roots = [2**k + d for k in range(31) for d in (-1, 0, 1)]
    roots += torch.randint(0, 2**31, (500,), generator=generator).tolist()
    return [v for r in roots for v in (r * r - 1, r * r, r * r + 1, r * r + 2 * r) if 0 <= v < 2**62]


@pytest.mark.parametrize("root", [integer_sqrt, integer_sqrt_float64])
def test_root_is_exact_around_perfect_squares_up_to_2_to_the_62(root):
    values = around_squares() + EDGES
    assert root(torch.tensor(values)).tolist() == [math.isqrt(v) for v in values]


@settings(deadline=None, max_examples=200)
@given(v=st.one_of(st.integers(0, 2**62 - 1), st.integers(0, 2**20)))
def test_root_is_exact_anywhere(v):
    x = torch.tensor([v])
    assert integer_sqrt(x).tolist() == integer_sqrt_float64(x).tolist() == [math.isqrt(v)]


@pytest.mark.parametrize("steps", [1, 10, 16])
def test_newton_root_follows_its_recursion_and_never_divides_by_zero(steps):
    values = around_squares()[:2000] + EDGES
    expected = [reference.newton(v, steps) for v in values]
    assert newton_sqrt(torch.tensor(values), steps).tolist() == expected
    assert all(r >= math.isqrt(v) and r >= 1 for v, r in zip(values, expected, strict=True) if v)


@pytest.mark.parametrize("steps", [0, 17])
def test_newton_root_refuses_steps_that_could_divide_by_zero(steps):
    with pytest.raises(ValueError, match="1 to 16 steps"):
        newton_sqrt(torch.tensor([1]), steps)
