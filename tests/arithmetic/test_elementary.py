"""exp, erf and what is made of them against mpmath, and only operations that every processor rounds alike."""

import inspect
import math
import re

import mpmath
import pytest
import torch

from intvit.arithmetic import elementary


def points(low: float, high: float, count: int = 3000) -> torch.Tensor:
    """Uniform values of [low, high], its ends, zeros, and neighbours of multiples of 1/32, where pieces meet."""
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low
    corners = torch.arange(-200, 201, dtype=torch.float64) / 32
    corners = torch.cat((corners, corners + 2.0**-40, corners - 2.0**-40))
    return torch.cat((uniform, torch.tensor([low, high, 0.0, -0.0, 1e-300, -1e-300]), corners)).clamp(low, high)


def errors(function, exact, x: torch.Tensor, unit) -> float:
    """The largest error in units of unit(x, exact value)."""
    with mpmath.workdps(50):
        worst = mpmath.mpf(0)
        for value, z in zip(function(x).tolist(), x.tolist(), strict=True):
            true = exact(mpmath.mpf(z))
            worst = max(worst, abs(mpmath.mpf(value) - true) / unit(z, true))
        return float(worst)


def last_place(z: float, true) -> float:
    return math.ulp(float(true))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-40.0, 0.0), (-708.0, 709.0)])
def test_exp_is_within_a_unit_in_the_last_place(low, high):
    assert errors(elementary.exp, mpmath.exp, points(low, high), last_place) < 1.0


def test_exp_clamps_what_would_not_be_a_normal_number():
    values = elementary.exp(torch.tensor([-1e9, -708.0, 709.0, 1e9], dtype=torch.float64))
    assert values[0] == values[1] > 0
    assert values[2] == values[3] < math.inf


@pytest.mark.parametrize("reach", [0.1, 1.0, 8.0])
def test_erf_is_within_its_stated_error(reach):
    x = points(-reach, reach)
    assert errors(elementary.erf, mpmath.erf, x, lambda z, true: 1.25 * 2.0**-53) < 1.0
    assert errors(elementary.erf, mpmath.erf, x[x.abs() > 1e-200], last_place) < 2.0


def test_gelu_tanh_and_sigmoid_are_within_their_stated_errors():
    x = points(-30.0, 30.0)

    def gelu(z):
        return z * (1 + mpmath.erf(z / mpmath.sqrt(2))) / 2

    assert errors(elementary.gelu, gelu, x, lambda z, true: 2.0**-52 * max(1.0, abs(z))) < 1.0
    assert errors(elementary.tanh, mpmath.tanh, x, lambda z, true: 2.0**-51) < 1.0
    assert errors(elementary.sigmoid, lambda z: 1 / (1 + mpmath.exp(-z)), x, last_place) < 2.0


def test_odd_functions_are_odd_and_shapes_are_kept():
    x = points(-9.0, 9.0).view(3, -1)
    assert torch.equal(elementary.erf(-x), -elementary.erf(x))
    for function in (elementary.exp, elementary.erf, elementary.gelu, elementary.tanh, elementary.sigmoid):
        assert function(x).shape == x.shape
        assert function(x).dtype == torch.float64


def test_nothing_is_taken_from_libm_or_from_a_matrix_library():
    """Their last bits differ from one processor to the next."""
    forbidden = r"torch\.(exp|erf|tanh|sigmoid|log|pow|matmul|addcmul|lerp)|\.(exp|pow|erf)_?\(\)| @ "
    assert not re.findall(forbidden, inspect.getsource(elementary))
