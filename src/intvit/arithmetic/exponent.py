"""Integer exponentials: the kinds of exponent that a softmax of the program format has.

An exponent maps x = logits - max(logits) <= 0 to E >= 0, proportional to e^(x * scale). Each kind is a frozen dataclass
whose integers are the operator's attributes and whose tensors with an axis are its constants: a derivation gives int64
tensors of no axis for integers that depend on the scale, a program ints. This file holds what they compute;
`exponentials/` derives them from real scales.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from intvit.arithmetic.fields import Integer, device_of
from intvit.arithmetic.piecewise import evaluate_pieces, without_nowhere


def shift_exponential(x: Tensor, x0: Integer, n: Integer, fraction_bits: Integer) -> Tensor:
    """Shiftmax's exponential (I-ViT, arXiv 2207.01405, ShiftExp): E ~ (-x0 << n) * e^(x * scale), x <= 0.

    x * log2(e) by shifts, then 2^(-q + r) with 2^r ~ 1 + r/2. In integers: x <<= fraction_bits;
    x += (x >> 1) - (x >> 4); x = max(x, n * x0); q = floor(x / x0); r = x - q * x0, which is in (x0, 0];
    E = ((r >> 1) - x0) << (n - q).

    Args:
        x: int64, -2^16 < x <= 0; x0 in [-2^14, -1]; n in [0, 30]; fraction_bits in [0, 15].

    Returns:
        int64, 1 <= E <= -x0 << n, the upper end at x = 0. |x| stays below 2^16 * 2^15 * 1.5 < 2^32.
    """
    x = x << fraction_bits
    x = (x + (x >> 1) - (x >> 4)).clamp(min=n * x0)
    q = torch.div(x, x0, rounding_mode="floor")
    r = x - q * x0
    return ((r >> 1) - x0) << (n - q)


def shift_round(v: Tensor, k: Tensor) -> Tensor:
    """v * 2^-k, rounded half up: v << -k where k <= 0, (v + 2^(k-1)) >> k elsewhere. |k| < 62."""
    right = k.clamp(min=0)
    half = (torch.ones_like(right) << right) >> 1
    return ((v << (-k).clamp(min=0)) + half) >> right


@dataclass(frozen=True, eq=False)
class TableExponent:
    """E = table[-x]. table: int64 [2^logit_bits], 0 <= entries, largest first."""

    kind: ClassVar[str] = "table"
    exportable: ClassVar[bool] = True
    table: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.table[-x]


@dataclass(frozen=True, eq=False)
class ShiftExponent:
    """Shiftmax: see `shift_exponential`."""

    kind: ClassVar[str] = "shift"
    exportable: ClassVar[bool] = True
    x0: Integer
    n: Integer
    fraction_bits: Integer

    def __call__(self, x: Tensor) -> Tensor:
        return shift_exponential(x, self.x0, self.n, self.fraction_bits)


@dataclass(frozen=True, eq=False)
class PolynomialExponent:
    """I-BERT's exponential (arXiv 2101.01321, i-exp): e^r ~ 0.35815 (r + 1.353)^2 + 0.344 on (-ln 2, 0], then shifts.

    In integers: x <<= fraction_bits; x = max(x, n * x0); q = floor(x / x0); r = x - q * x0; P = (r + b)^2 + c;
    E = P * 2^(u - q) rounded half up. 0 < P <= b^2 + c < 2^30, E <= shift_round(b^2 + c, -u), at x = 0.
    """

    kind: ClassVar[str] = "polynomial"
    exportable: ClassVar[bool] = True
    x0: Integer
    n: Integer
    b: Integer
    c: Integer
    u: Integer
    fraction_bits: Integer

    def __call__(self, x: Tensor) -> Tensor:
        x = (x << self.fraction_bits).clamp(min=self.n * self.x0)
        q = torch.div(x, self.x0, rounding_mode="floor")
        r = x - q * self.x0
        return shift_round((r + self.b) * (r + self.b) + self.c, q - self.u)


@dataclass(frozen=True, eq=False)
class PiecewiseExponent:
    """Piecewise polynomial of the distance d = -x: see `piecewise.evaluate_pieces`; E = max(value, 0).

    bounds int64 [S-1] ascending (equal bounds leave a piece empty), origins int64 [S], coefficients int64 [S, D+1].
    """

    kind: ClassVar[str] = "piecewise"
    exportable: ClassVar[bool] = True
    bounds: Tensor
    origins: Tensor
    coefficients: Tensor
    step_shift: Integer

    def __call__(self, x: Tensor) -> Tensor:
        return evaluate_pieces(-x, self.bounds, self.origins, self.coefficients, self.step_shift).clamp(min=0)

    def compact(self) -> "PiecewiseExponent":
        """Without the pieces that are nowhere."""
        bounds, origins, coefficients = without_nowhere(self.bounds, self.origins, self.coefficients)
        return replace(self, bounds=bounds, origins=origins, coefficients=coefficients)


@dataclass(frozen=True, eq=False)
class FloatExponent:
    """The exact exponential, real-valued: E = table[-x], float64. Separates approximation from quantization error."""

    kind: ClassVar[str] = "float"
    exportable: ClassVar[bool] = False
    table: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.table[-x.to(torch.int64)]


Exponent = TableExponent | ShiftExponent | PolynomialExponent | PiecewiseExponent | FloatExponent

EXPONENT_KINDS: dict[str, type] = {
    kind.kind: kind for kind in (TableExponent, ShiftExponent, PolynomialExponent, PiecewiseExponent)
}


def exponent_table(exponent: Exponent, bits: int) -> Tensor:
    """E at every distance d = 0 .. 2^bits - 1 from the maximum of logits of `bits` bits: float64 [2^bits], exact."""
    return exponent(-torch.arange(1 << bits, device=device_of(exponent))).to(torch.float64)
