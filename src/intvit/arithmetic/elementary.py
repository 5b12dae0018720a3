"""exp, erf, powers of two and exponents, equal on every processor and device: what derivations take instead of libm.

libm, SLEEF, MKL and CUDA's own functions differ in the last bit from one processor to the next, and a table made with
them with it. Here every step is one float64 operation that IEEE 754 rounds correctly (add, subtract, multiply, divide,
floor) on whole tensors, in a fixed order and without fused multiply-add; constants come from mpmath, once.

Errors, against mpmath (tests/arithmetic/test_elementary.py): exp within 1 unit in the last place, erf within 2 units
and 1.25 * 2^-53, sigmoid within 2 units, tanh within 2^-51, GELU within 2^-52 * max(1, |x|).
"""

import functools
import math

import torch
from torch import Tensor

LN2 = 0.6931471805599453
_LOG2_E = 1.4426950408889634
# ln 2 in 32 bits, so that products with |k| < 2^11 are exact, and the rest of it.
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62E42FEEp-1"), float.fromhex("0x1.A39EF35793C76p-33")
_EXP_RANGE = (-708.0, 709.0)  # results are normal numbers
_ERF_DEGREE = 12  # (1/32)^13 / 13! of an analytic function's terms: below 2^-70
_ERF_STEP = 16.0  # centers of the expansions are multiples of 1/16
_ERF_RANGE = 6.0  # erf(6) = 1 - 2e-17 rounds to 1
_SQRT_HALF = 0.7071067811865476


def reals(*values: Tensor | float) -> tuple[Tensor, ...]:
    """Real scales as float64 tensors on the device of the first tensor among them; numbers alone: on the CPU."""
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    return tuple(
        value.to(device, torch.float64)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=torch.float64, device=device)
        for value in values
    )


def power_of_two(k: Tensor) -> Tensor:
    """2^k as float64 for integers |k| <= 1022, by its bits: torch.ldexp is not exact on every device."""
    return ((k + 1023) << 52).view(torch.float64)


def exponent(x: Tensor) -> Tensor:
    """k with 2^(k-1) <= |x| < 2^k of float64 x, int64; 0 for 0, -1022 for subnormal x, 1025 where x is not finite."""
    return torch.where(x == 0, 0, ((x.view(torch.int64) >> 52) & 0x7FF) - 1022)


def ceil_log2(x: Tensor) -> Tensor:
    """Smallest k with x <= 2^k of positive, normal float64 x, int64."""
    return ((x.view(torch.int64) - 1) >> 52) - 1022


def bit_length(v: Tensor) -> Tensor:
    """Bits of integers 0 <= v < 2^53, int64: 0 of 0, k with 2^(k-1) <= v < 2^k of others."""
    return exponent(v.to(torch.float64))


def exp(x: Tensor) -> Tensor:
    """e^x of float64 x, clamped to [-708, 709]: 2^k e^r with k = round(x log2(e)), and Taylor's polynomial of e^r."""
    x = x.clamp(*_EXP_RANGE)
    k = torch.floor(x * _LOG2_E + 0.5)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW  # |r| <= 0.347
    value = torch.full_like(r, 1 / math.factorial(14))
    for degree in range(13, 1, -1):
        value = value * r + 1 / math.factorial(degree)
    value = (value * r) * r + r + 1.0
    k = k.to(torch.int64)
    half = k >> 1  # 2^k in two factors: 2^1023 and 2^-1022 are normal, their squares are not
    return value * power_of_two(half) * power_of_two(k - half)


def erf(x: Tensor) -> Tensor:
    """erf of float64 x: Taylor's polynomial at the nearest multiple of 1/16, 1 and -1 beyond 6."""
    magnitude = x.abs().clamp(max=_ERF_RANGE)
    index = torch.floor(magnitude * _ERF_STEP + 0.5)
    h = magnitude - index / torch.full_like(index, _ERF_STEP)
    row = index.to(torch.int64).flatten()
    coefficients = [c.index_select(0, row).view(x.shape) for c in _erf_expansions(x.device)]
    value = coefficients.pop()
    for coefficient in reversed(coefficients):
        value = value * h + coefficient
    return torch.where(x < 0, -value, value)


@functools.cache
def _erf_expansions(device: torch.device) -> Tensor:
    """float64 [degree + 1, centers]: coefficients of erf(c + h) in h; its derivatives are Hermite functions of c."""
    if device.type != "cpu":
        return _erf_expansions(torch.device("cpu")).to(device)
    import mpmath

    with mpmath.workdps(40):
        columns = []
        for i in range(int(_ERF_RANGE * _ERF_STEP) + 1):
            c = mpmath.mpf(i) / int(_ERF_STEP)
            slope = 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-c * c)
            column, before, polynomial = [mpmath.erf(c)], mpmath.mpf(0), mpmath.mpf(1)
            for n in range(_ERF_DEGREE):  # H_{n+1} = 2 c H_n - 2 n H_{n-1}; the (n+1)-th derivative is (-1)^n H_n slope
                column.append((-1) ** n * polynomial * slope / mpmath.factorial(n + 1))
                before, polynomial = polynomial, 2 * c * polynomial - 2 * n * before
            columns.append([float(value) for value in column])
    return torch.tensor(columns, dtype=torch.float64).t().contiguous()


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x) of float64 x."""
    return torch.ones_like(x) / (exp(-x) + 1.0)


def tanh(x: Tensor) -> Tensor:
    """1 - 2 / (e^2x + 1) of float64 x."""
    return 1.0 - torch.full_like(x, 2.0) / (exp(x * 2.0) + 1.0)


def gelu(x: Tensor) -> Tensor:
    """x/2 (1 + erf(x / sqrt 2)) of float64 x (Hendrycks and Gimpel, arXiv 1606.08415)."""
    return x * 0.5 * (erf(x * _SQRT_HALF) + 1.0)
