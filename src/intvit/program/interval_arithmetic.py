"""Interval arithmetic of the proof: intervals of values, products and shifts of them, ranges of intermediates.

The rules of the operators are in intervals.py. Products are computed in Python integers, so that an overflow is seen
instead of suffered.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from intvit.program.program import Operator, ProgramError, Value, limits


@dataclass(frozen=True)
class Range:
    """All values that an intermediate can take, low..high, and the signed width that the format allots to it."""

    low: int
    high: int
    width: int = 64

    @property
    def bits(self) -> int:
        """Width of the smallest signed integer type that holds the range."""
        return bits_needed(self.low, self.high)

    @property
    def margin(self) -> int:
        """Bits that remain unused."""
        return self.width - self.bits


@dataclass(frozen=True)
class Ball:
    """Rows (last axis) near a center: |x[c] - center[c]| <= gain[c] * n[c] + 1/2 with sum(n^2) <= radius^2.

    What LayerNorm leaves: a row's deviations cannot all be large at once. float64; radius is rounded up.
    """

    center: np.ndarray
    gain: np.ndarray
    radius: float

    def sums(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For rows of `weight` [N, C]: w . center, and |w . x| and its partial sums stay within how far of them.

        Returns (least, most, reach), float64 [N]: partial sums over any channels lie in [least - reach, most + reach]
        and the whole sum in [least + most - reach, least + most + reach].
        """
        terms = weight * self.center
        reach = np.sqrt(((weight * self.gain) ** 2).sum(1)) * self.radius + np.abs(weight).sum(1) / 2
        reach = np.ceil(reach * (1 + 2.0**-30)) + 1  # float64's rounding errors are far smaller
        return np.minimum(terms, 0).sum(1), np.maximum(terms, 0).sum(1), reach


@dataclass(frozen=True)
class Interval:
    """low <= value <= high. int64 arrays that broadcast against the value's shape (size 1: the same along that axis).

    `row_sum`: if not None, the entries are not negative and each row (last axis) sums to at most this.
    `mean`: if not None, of a product's accumulators: each is the sum of its row's weights (none negative) times a value
    within these extremes.
    `ball`: if not None, each row lies in it.
    """

    low: np.ndarray
    high: np.ndarray
    row_sum: int | None = None
    mean: tuple[int, int] | None = None
    ball: Ball | None = None

    def extremes(self) -> tuple[int, int]:
        return int(self.low.min()), int(self.high.max())

    def at_most(self, entries: int, *shapes: tuple[int, ...]) -> "Interval":
        """Itself; joined over all axes but the last, or over all, if it has more entries, broadcast against the shapes.

        What a small file declares must not cost much memory to prove.
        """
        for joined in (self, self.channels()):
            if prod(np.broadcast_shapes(joined.low.shape, *shapes)) <= entries:
                return joined
        return self._joined(self.low.ndim)

    def channels(self) -> "Interval":
        """Joined over all axes but the last."""
        return self._joined(self.low.ndim - 1)

    def _joined(self, count: int) -> "Interval":
        """Over the first `count` axes."""
        axes = tuple(range(count))
        return replace(self, low=self.low.min(axes, keepdims=True), high=self.high.max(axes, keepdims=True))


@dataclass
class RuleContext:
    """What the rule of one operator is given, and the ranges of its intermediates, each of which must fit its width."""

    operator: Operator
    shapes: list[tuple[int, ...]]  # of the inputs
    values: list[Value]  # the inputs
    output: Value
    is_scores: bool  # does this operator compute the program's scores?
    intermediates: dict[str, Range] = field(default_factory=dict)

    def note(self, name: str, low: Any, high: Any, bits: int = 64, remedy: str = "use shorter multipliers") -> None:
        """`low` and `high`: integers or arrays of them (dtype object or int64)."""
        noted = self.intermediates[name] = Range(int(np.min(low)), int(np.max(high)), bits)
        if noted.margin < 0:
            interval = f"{noted.low}..{noted.high}"
            raise ProgramError(f"{self.operator}: {name} may reach {interval}, which overflows int{bits}; {remedy}")

    def clamp(self, low: np.ndarray, high: np.ndarray) -> Interval:
        """Clamp to the output's width; scores must not need it, or their order would be lost."""
        least, most = limits(self.output.bits, self.output.signed)
        self.note("before clamp", low, high)
        if self.is_scores and (np.min(low) < least or np.max(high) > most):
            interval = f"{int(np.min(low))}..{int(np.max(high))}"
            remedy = "raise the score scale or the bits"
            raise ProgramError(
                f"{self.operator}: scores may reach {interval} and saturate at {self.output.bits} bits; {remedy}"
            )
        return Interval(*(np.clip(bound, least, most).astype(np.int64) for bound in (low, high)))


def bits_needed(low: int, high: int) -> int:
    """Width of the smallest signed integer type that holds low..high."""
    return max(int(high).bit_length(), (-int(low) - 1).bit_length() if low < 0 else 0) + 1


def product(low: np.ndarray, high: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of value * factor for a known factor (any sign), in Python integers."""
    ends = [np.asarray(bound.astype(object) * factor.astype(object), object) for bound in (low, high)]
    return np.minimum(*ends), np.maximum(*ends)


def rounding_shift(
    context: RuleContext, name: str, low: np.ndarray, high: np.ndarray, shift: np.ndarray | int
) -> Interval:
    """clamp((v + 2^(e-1)) >> e); `name` is what v, with its rounding term, is called in the proof."""
    places = np.asarray(shift).astype(object)
    half = 1 << (places - 1)
    context.note(name, low, high + half)
    return context.clamp((low + half) >> places, (high + half) >> places)
