"""GELU on integers: the kinds of the program format, and the tables that are equal to them.

Each kind is a frozen dataclass (integers are attributes, tensors with an axis constants; see `exponent.py`) that maps
x [..., C] of at most 8 bits to int64 of `bits` bits. `activations/` derives them from real scales. Every kind but
`ShiftGelu` is a function of x alone, and ShiftGELU one of x and the row's maximum: `gelu_table` and `apply_gelu_table`
use that.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from intvit.arithmetic.dyadic import container, divide, limits, real_multiplier, requantize
from intvit.arithmetic.exponent import shift_exponential
from intvit.arithmetic.fields import Integer, device_of
from intvit.arithmetic.piecewise import evaluate_pieces, without_nowhere


@dataclass(frozen=True, eq=False)
class TableGelu:
    """out = table[x + 2^(in_bits-1)]. table: int64 [2^in_bits]."""

    kind: ClassVar[str] = "table"
    exportable: ClassVar[bool] = True
    table: Tensor
    bits: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.table[x.to(torch.int64) + self.table.shape[0] // 2]


@dataclass(frozen=True, eq=False)
class FloatGelu(TableGelu):
    """The exact GELU, rounded once to the output's integers. As data it is a table; the family does not export."""

    kind: ClassVar[str] = "float"
    exportable: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class ShiftGelu:
    """ShiftGELU (I-ViT, arXiv 2207.01405): x * sigmoid(c x), c near 1.702, the sigmoid as e^(z-M) / (e^(z-M) + e^-M).

    z = min(x, limit), M = row maximum over the last axis, clamped to [0, limit], A = shift_exponential(z - M),
    B = shift_exponential(-M), F = floor((2^reciprocal_bits - 1) / (A + B)), s = (A * F) >> (reciprocal_bits -
    sigmoid_bits), out = requantize(x * s). Beyond `limit` the sigmoid stays what it is there. The published form has
    neither: limit = 2^(bits_in-1) - 1, which no x exceeds, and reciprocal_bits = 31.

    Widths: z <= M, for x is at most the row's maximum and both are capped alike. -x0 << n < 2^30, so 1 <= A, B < 2^30
    and A + B is in [2, 2^31). F < 2^(reciprocal_bits-1) <= 2^45 and A * F <= (A + B) * F < 2^reciprocal_bits <= 2^46,
    so s < 2^sigmoid_bits <= 2^16 and |x * s * multiplier| <= 2^7 * 2^16 * 2^31 = 2^54 < 2^62. F >= 2^(reciprocal_bits
    - 31): at 46 bits it is off by less than 2^-15 of itself, at 31 bits it may be 1 and off by half.
    """

    kind: ClassVar[str] = "shift"
    exportable: ClassVar[bool] = True
    x0: Integer
    n: Integer
    fraction_bits: Integer
    limit: Integer
    reciprocal_bits: int
    sigmoid_bits: int
    multiplier: Integer
    shift: Integer
    bits: int

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(torch.int64)
        return self.at_maximum(x, x.amax(-1, keepdim=True).clamp(min=0))

    def at_maximum(self, x: Tensor, maximum: Tensor) -> Tensor:
        """The function of x and max(0, row maximum) that the operator is; x <= maximum."""
        return requantize(x * self.gate(x, maximum), self.multiplier, self.shift, self.bits)

    def gate(self, x: Tensor, maximum: Tensor) -> Tensor:
        """The sigmoid that x is multiplied by, in units of 2^-sigmoid_bits."""
        top = maximum.clamp(max=self.limit)
        a = shift_exponential(x.clamp(max=self.limit) - top, self.x0, self.n, self.fraction_bits)
        b = shift_exponential(-top, self.x0, self.n, self.fraction_bits)
        factor = torch.div((1 << self.reciprocal_bits) - 1, a + b, rounding_mode="floor")
        return (a * factor) >> (self.reciprocal_bits - self.sigmoid_bits)


@dataclass(frozen=True, eq=False)
class PolynomialGelu:
    """I-BERT's GELU (arXiv 2101.01321, i-gelu): x/2 * (1 + erf(x / sqrt 2)), erf by a parabola on a clipped |x|.

    y = x << fraction_bits; a = min(|y|, -b); L = sign(y) * ((a + b)^2 + c); out = requantize(y * (L + one)).
    b, c and one are negative, like the parabola's leading coefficient, whose sign the multiplier carries.
    |y * (L + one) * multiplier| < 2^62 by the multiplier's length (`encode_ratios`, operand_bits).
    """

    kind: ClassVar[str] = "polynomial"
    exportable: ClassVar[bool] = True
    fraction_bits: Integer
    b: Integer
    c: Integer
    one: Integer
    multiplier: Integer
    shift: Integer
    bits: int

    def __call__(self, x: Tensor) -> Tensor:
        y = x.to(torch.int64) << self.fraction_bits
        return requantize(y * (self.erf(y) + self.one), self.multiplier, self.shift, self.bits)

    def erf(self, y: Tensor) -> Tensor:
        """L of y = x << fraction_bits: erf(x * scale / sqrt 2) in units of 1 / c."""
        clipped = y.abs().clamp(max=-self.b) + self.b
        return y.sign() * (clipped * clipped + self.c)


@dataclass(frozen=True, eq=False)
class PiecewiseGelu:
    """Piecewise polynomial of x, requantized: see `piecewise.evaluate_pieces`. |value| < 2^31."""

    kind: ClassVar[str] = "piecewise"
    exportable: ClassVar[bool] = True
    bounds: Tensor
    origins: Tensor
    coefficients: Tensor
    step_shift: Integer
    multiplier: Integer
    shift: Integer
    bits: int

    def __call__(self, x: Tensor) -> Tensor:
        value = evaluate_pieces(x.to(torch.int64), self.bounds, self.origins, self.coefficients, self.step_shift)
        return requantize(value, self.multiplier, self.shift, self.bits)

    def compact(self) -> "PiecewiseGelu":
        """Without the pieces that are nowhere."""
        bounds, origins, coefficients = without_nowhere(self.bounds, self.origins, self.coefficients)
        return replace(self, bounds=bounds, origins=origins, coefficients=coefficients)


Gelu = TableGelu | ShiftGelu | PolynomialGelu | PiecewiseGelu

GELU_KINDS: dict[str, type] = {kind.kind: kind for kind in (TableGelu, ShiftGelu, PolynomialGelu, PiecewiseGelu)}


def gelu_table(gelu: Gelu, bits_in: int) -> Tensor:
    """The GELU over all inputs of `bits_in` bits, in the smallest dtype of its output.

    Returns:
        [2^bits_in], indexed by x + 2^(bits_in-1); for ShiftGelu [2^(bits_in-1), 2^bits_in], indexed by max(0, row
        maximum), which its limit does not cap, and the same (no x is above it; those entries hold the value at it).
    """
    half, device = 1 << (bits_in - 1), device_of(gelu)
    x = torch.arange(-half, half, device=device)
    if isinstance(gelu, ShiftGelu):
        return _shift_table(gelu, x)
    return gelu(x).to(container(gelu.bits))


def _shift_table(gelu: ShiftGelu, x: Tensor) -> Tensor:
    """`at_maximum` over the (maximum M, x) grid, with the exponentials of the 2^bits distances M - z taken once.

    They depend on M - z alone, so that those of one x are a window that slides over them as M falls: a view where a
    gather would be slow. A maximum beyond the limit is as M = limit, where x > limit has distance 0.

    In float64, where a division is fast: A + B < 2^31, so that the quotient's floor is exact as in `normalize_float64`;
    A * F < 2^46 is exact, and so is its shift; the output as in `requantize_float64`.
    """
    half, (low, high) = x.shape[0] // 2, limits(gelu.bits)
    distance = torch.arange(2 * half, device=x.device)
    exponentials = shift_exponential(-distance, gelu.x0, gelu.n, gelu.fraction_bits).double()
    falling = torch.cat((exponentials.flip(0), exponentials[:1].expand(half - 1)))  # of max(M - x, 0), at any M - x
    shifted = falling * 2.0 ** (gelu.sigmoid_bits - gelu.reciprocal_bits)
    maximum = distance[:half].flip(0)
    total = falling.unfold(0, half, 1) + exponentials[:half].flip(0)  # [x, M], largest M first
    factor = divide(float((1 << gelu.reciprocal_bits) - 1), total).floor_()
    sigmoid = factor.mul_(shifted.unfold(0, half, 1)).floor_()
    limit = torch.as_tensor(gelu.limit, device=x.device)
    sigmoid = torch.where(maximum > limit, sigmoid.index_select(1, (half - 1 - limit).view(1)), sigmoid)
    value = sigmoid.mul_(torch.minimum(x[:, None], maximum)).mul_(real_multiplier(gelu.multiplier, gelu.shift))
    return value.add_(0.5).floor_().clamp(low, high).to(container(gelu.bits)).t().flip(0).contiguous()


def apply_gelu_table(x: Tensor, table: Tensor) -> Tensor:
    """The GELU whose `gelu_table` is `table`, by look-up.

    Args:
        x: int8 [..., C] within the table's bits.

    Returns:
        x's shape, the table's dtype.
    """
    index = x.to(torch.int32).add_(table.shape[-1] // 2)
    if table.dim() == 2:
        index = index.add_(x.amax(-1, keepdim=True).clamp(min=0).to(torch.int32) * table.shape[1])
    return torch.index_select(table.view(-1), 0, index.view(-1)).view(x.shape)
