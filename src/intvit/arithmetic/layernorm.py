"""LayerNorm on integers: three normative methods, and the equal float64 form for training.

Two steps: a `Normalizer` turns integers x [..., C] into n ~ (x - mean) / std in fixed point; then an affine step per
channel gives out = clamp((n * m_c + B_c + 2^(e_c - 1)) >> e_c), with gamma in (m_c, e_c) and beta in B_c. beta is never
divided by gamma, so gamma = 0 works. The published LayerNorm's eps has no counterpart: a constant row gives n = 0.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from intvit.arithmetic import elementary
from intvit.arithmetic.chunks import rounded_rows
from intvit.arithmetic.dyadic import MULTIPLIER_BITS, container, divide, half_of, limits, real_multiplier, shift_cap
from intvit.arithmetic.elementary import reals
from intvit.arithmetic.hardware import Constants, shortened
from intvit.arithmetic.roots import integer_sqrt, integer_sqrt_float64, newton_sqrt
from intvit.arithmetic.validity import require
from intvit.errors import IntVitError

LAYERNORM_METHODS = ("exact", "ivit", "ibert", "float")
CHANNEL_LIMIT = 1 << 15
# |B_c| + 2^(e_c - 1) <= 2^52: half of what float64 holds exactly, see `layernorm_float64`
_BIAS_LIMIT = 1 << 52
_NORMALIZED_BITS = {"exact": 30, "ivit": 31, "ibert": 31}  # of |n|: `derive_normalizer`


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Integer parameters of n; derived by `derive_normalizer`, which proves the widths.

    Attributes:
        method: `exact`, `ivit`, `ibert`, or `float` (only in the float64 form, not exportable).
        normalizer_shift: k.
        newton_steps: 0 (exact root) or the steps of I-ViT's iteration.
        square_shift: right shift before squaring (`ibert`).
        channel_shift: None, or int64 [C], 0..3: x <<= channel_shift first.
        scale: real value of one unit of n; metadata.
    """

    method: str
    normalizer_shift: int
    newton_steps: int
    square_shift: int
    channel_shift: Tensor | None
    scale: float

    @property
    def exportable(self) -> bool:
        return self.method != "float"


@dataclass(frozen=True, eq=False)
class LayerNormParameters:
    """A normalizer and the affine step to `bits` signed bits: multiplier, bias, shift are int64 [C]."""

    kind: ClassVar[str] = "layernorm"
    normalizer: Normalizer
    bits: int
    multiplier: Tensor
    bias: Tensor
    shift: Tensor

    def fitted(self, form: Constants) -> "LayerNormParameters":
        """With a normalized value of `operand_bits` bits and its sign, and shorter multipliers and biases."""
        normalizer = self.normalizer
        if normalizer.method == "float":
            return self
        drop = max(0, _NORMALIZED_BITS[normalizer.method] - form.operand_bits)
        k, scale = normalizer.normalizer_shift + drop, normalizer.scale * 2.0**drop
        shift, multiplier = shortened(self.shift - drop, self.multiplier, form=form)
        lost = self.shift - shift  # below 0 for a channel of zeros that was given the tensor's shift
        right, left = lost.clamp(min=0), (-lost).clamp(min=0)
        bias = ((self.bias << left) + ((torch.ones_like(right) << right) >> 1)) >> right
        normalizer = replace(normalizer, normalizer_shift=k, scale=scale)
        return LayerNormParameters(normalizer, self.bits, multiplier, bias, shift)


def derive_normalizer(
    method: str,
    channels: int,
    bits_in: int,
    *,
    channel_shift: Tensor | None = None,
    paper: bool = False,
    site: str = "layernorm",
) -> Normalizer:
    """Integers of the normalization of `channels` values of `bits_in` bits (before the channel shift).

    Bounds, with X = 2^(w-1) >= |x|, w the width after the channel shift, C <= 2^15 and C * X < 2^31:
    `exact`: T <= C^2 X^2 < 2^62. |y| <= sqrt((C-1) T) (one value against all others) and sqrt(T) / R < 2 for R >= 1, so
    |y * floor(2^40 / R)| < 2^41 sqrt(C) < 2^49; k brings |n| below 2^30.
    `ivit`: V <= C (2X)^2 < 2^63 / C, |y| <= sqrt(V) < 2 R (Newton's root is not below R), so |y * F| < 2^32; k = 1 as
    published brings |n| below 2^31.
    `ibert`: |y| < (|z| + 1) << square_shift and R >= max(1, |z|) << square_shift, so |y| / R <= 2 and the same k.
    square_shift is the smallest that keeps sum(z^2) < 2^32 for every input.

    Raises:
        IntVitError: unknown method, or a width or a number of channels beyond the proof.
    """
    if method not in LAYERNORM_METHODS:
        raise IntVitError(f"{site}: LayerNorm method is {method!r}; expected one of {LAYERNORM_METHODS}")
    width = bits_in + (0 if channel_shift is None else 3)
    if not 2 <= channels <= CHANNEL_LIMIT or channels << (width - 1) >= 1 << 31:
        raise IntVitError(
            f"{site}: LayerNorm of {channels} channels of {width} bits; 2..{CHANNEL_LIMIT}, C * 2^bits < 2^32"
        )
    if method in ("exact", "float"):
        root_bits = ((channels - 1).bit_length() + 1) // 2  # sqrt(C) <= 2^root_bits
        fraction = 29 - root_bits  # |n| < 2^(fraction + 1 + root_bits) = 2^30
        return Normalizer(method, 40 - fraction, 0, 0, channel_shift, math.ldexp(1.0, -fraction))
    scale = math.ldexp(math.sqrt(channels), -30)
    if method == "ivit":
        return Normalizer(method, 1, 10 if paper else 0, 0, channel_shift, scale)
    # the norm of y is at most sqrt(C) 2^(w-1) (values at both ends of the range); flooring adds at most sqrt(C)
    square_shift = next(s for s in range(width) if channels * ((1 << (width - 1)) // (1 << s) + 1) ** 2 < 1 << 32)
    return Normalizer(method, 1, 0, square_shift, channel_shift, scale)


def derive_layernorm(
    method: str,
    gamma: Tensor,
    beta: Tensor,
    scale_out: Tensor | float,
    bits_in: int,
    bits_out: int,
    *,
    channel_shift: Tensor | None = None,
    paper: bool = False,
    site: str = "layernorm",
) -> LayerNormParameters:
    """Integers of gamma * (x - mean) / std + beta at an output scale. The input's scale cancels, so none is taken.

    Args:
        gamma, beta: float64 [C].
        scale_out: float64 of no axis on their device, or a number.
        channel_shift: int64 [C], 3 - k_c where a stream's value is q * s * 2^-k_c.

    e_c is the largest shift with a 31-bit multiplier, at most 53 - bits_out, and such that |B_c| + 2^(e_c-1) <= 2^52; a
    bias that would not fit even at e_c = 1 saturates the output anyway and is clamped.

    Raises:
        IntVitError: not finite, or |gamma| * normalizer scale / scale_out >= 2^30.
    """
    normalizer = derive_normalizer(method, gamma.shape[0], bits_in, channel_shift=channel_shift, paper=paper, site=site)
    return derive_affine(normalizer, gamma, beta, scale_out, bits_out, site=site)


def derive_affine(
    normalizer: Normalizer,
    gamma: Tensor,
    beta: Tensor,
    scale_out: Tensor | float,
    bits: int,
    *,
    site: str = "layernorm",
) -> LayerNormParameters:
    """The affine step of `derive_layernorm` for a normalizer."""
    gamma, beta, scale = reals(gamma, beta, scale_out)
    ratio = gamma * divide(normalizer.scale, scale)
    offset = beta / scale
    require(
        torch.isfinite(ratio) & torch.isfinite(offset) & torch.isfinite(scale) & (scale > 0),
        lambda: f"{site}: gamma, beta or the output scale {float(scale)} is not finite and positive",
    )
    length = elementary.exponent(ratio)
    require(
        length <= MULTIPLIER_BITS - 1,
        lambda: f"{site}: output scale {float(scale):g} is too small for gamma up to {float(gamma.abs().max()):g}",
    )
    # beta / scale_out < 2^x, so |B| <= 2^51 at e = 51 - x
    shift = torch.minimum(MULTIPLIER_BITS - length, 51 - elementary.exponent(offset)).clamp(1, shift_cap(bits) - 1)
    one = torch.ones_like(shift)
    step = (one << shift).to(torch.float64)
    longest = float((1 << MULTIPLIER_BITS) - 1)
    multiplier = torch.floor(ratio * step + 0.5).clamp(-longest, longest).to(torch.int64)
    bias = torch.floor((offset * step + 0.5).clamp(-(2.0**52), 2.0**52)).to(torch.int64)
    reach = _BIAS_LIMIT - (one << (shift - 1))
    return LayerNormParameters(normalizer, bits, multiplier, torch.clamp(bias, -reach, reach), shift)


def layernorm(x: Tensor, parameters: LayerNormParameters) -> Tensor:
    """Normative LayerNorm over the last axis.

    Args:
        x: integers [..., C] of the width that the parameters were derived for.

    Returns:
        int64 [..., C] of `parameters.bits` signed bits. |n * m + B + 2^(e-1)| < 2^62 + 2^52.
    """
    low, high = limits(parameters.bits)
    half = half_of(parameters.shift)
    n = normalized(x, parameters.normalizer)
    return ((n * parameters.multiplier + parameters.bias + half) >> parameters.shift).clamp(low, high)


def normalized(x: Tensor, normalizer: Normalizer) -> Tensor:
    """The normalized value n, int64 [..., C].

    exact: S = sum(x), T = C sum(x^2) - S^2, y = C x - S, R = floor(sqrt(T)), n = (y * floor(2^40 / R)) >> k.
    ivit:  mean = floor((2 S + C) / (2 C)), y = x - mean, V = sum(y^2), R = floor(sqrt(V)) or Newton's,
           n = (y * floor((2^31 - 1) / R)) >> k.
    ibert: the same mean and y; z = y >> square_shift, R = floor(sqrt(sum(z^2))) << square_shift, n as in ivit.
    n = 0 where R = 0 or V = 0.
    """
    x = x.to(torch.int64)
    if normalizer.channel_shift is not None:
        x = x << normalizer.channel_shift
    channels = x.shape[-1]
    total = x.sum(-1, keepdim=True)
    if normalizer.method == "exact":
        y = channels * x - total
        variance = channels * (x * x).sum(-1, keepdim=True) - total * total
        root, numerator = integer_sqrt(variance), 1 << 40
    elif normalizer.method in ("ivit", "ibert"):
        y = x - torch.div(2 * total + channels, 2 * channels, rounding_mode="floor")
        z = y >> normalizer.square_shift
        variance = (z * z).sum(-1, keepdim=True)
        root = newton_sqrt(variance, normalizer.newton_steps) if normalizer.newton_steps else integer_sqrt(variance)
        root, numerator = root << normalizer.square_shift, (1 << 31) - 1
    else:
        raise IntVitError(f"LayerNorm method {normalizer.method!r} has no integer form; use the float64 form")
    factor = torch.div(numerator, root.clamp(min=1), rounding_mode="floor")
    n = (y * factor) >> normalizer.normalizer_shift
    return torch.where(variance == 0, 0, n)


def normalized_float64(x: Tensor, normalizer: Normalizer) -> Tensor:
    """`normalized` as integral float64 [..., C], equal to it; the real value for `float`.

    Why equal: sums of x and of y^2 stay below 2^53; T is formed in int64, one value a row. y * F < 2^49 is exact, a
    division by 2^k is exact, and floor(2^40 / R) is exact because the quotient stays 1 / R below the next integer.
    """
    value = x.to(torch.float64, copy=True)
    if normalizer.channel_shift is not None:
        value.mul_((torch.ones_like(normalizer.channel_shift) << normalizer.channel_shift).to(torch.float64))
    channels = x.shape[-1]
    total = value.sum(-1, keepdim=True)
    if normalizer.method in ("exact", "float"):
        squares = torch.linalg.vecdot(value, value).unsqueeze(-1)
        y = value.mul_(channels).sub_(total)
        variance = channels * squares.to(torch.int64) - total.to(torch.int64).square()
        if normalizer.method == "float":
            factor = divide(1.0, variance.to(torch.float64).sqrt_().mul_(normalizer.scale))
            return y.mul_(torch.where(variance == 0, 0.0, factor))
        root, numerator = integer_sqrt_float64(variance), float(1 << 40)
    else:
        y = value.sub_(torch.floor(divide(2 * total + channels, 2 * channels)))
        z = torch.floor(y * 2.0**-normalizer.square_shift) if normalizer.square_shift else y
        variance = torch.linalg.vecdot(z, z).unsqueeze(-1).to(torch.int64)
        steps = normalizer.newton_steps
        root = newton_sqrt(variance, steps) if steps else integer_sqrt_float64(variance)
        root, numerator = root << normalizer.square_shift, float((1 << 31) - 1)
    factor = torch.floor(divide(numerator, root.clamp(min=1).to(torch.float64)))
    factor = torch.where(variance == 0, 0.0, factor)
    # the power of two must come after the product: floor(2^40 / R) * 2^-k is exact, and so is its product with y
    return y.mul_(factor.mul_(2.0**-normalizer.normalizer_shift)).floor_()


def layernorm_float64(x: Tensor, parameters: LayerNormParameters, peaks: Tensor | None = None) -> Tensor:
    """`layernorm` in float64: equal to it.

    Why, in units of 2^-e: the constant B + 2^(e-1) is at most 2^52, exact. If |n * m| < 2^53 it is exact, and so is the
    sum wherever it is at most 2^53, twice the saturation threshold 2^(bits-1+e) <= 2^52. If |n * m| >= 2^53, the sum is
    at least 2^53 - 2^52 = 2^52 before and after rounding, and saturates to the same end.

    peaks: float64 [rows], filled with the largest |n m / 2^e + B / 2^e| of each row.

    Returns:
        x's shape, dtype `container(parameters.bits)`.
    """
    low, high = limits(parameters.bits)
    half = half_of(parameters.shift)
    factor = real_multiplier(parameters.multiplier, parameters.shift)
    constant = real_multiplier(parameters.bias + half, parameters.shift)

    def value(rows: Tensor) -> Tensor:
        return normalized_float64(rows, parameters.normalizer).mul_(factor).add_(constant)

    dtype = container(parameters.bits)
    return rounded_rows(value, x, low=low, high=high, dtype=dtype, half=0.0, peaks=peaks)
