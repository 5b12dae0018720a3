"""The additive model: what every slot's values add to the divergence, and the best mix under a budget if that is all.

`Weights` bend the model, because additions are measured alone and mixes are not sums: Optuna searches over them, and
every mix that comes of it fills the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from intvit.search.budget import Budget, Usage
from intvit.search.judge import Mix
from intvit.search.price import Price, Widths
from intvit.search.slots import Slot, merged

ROUNDS = 8  # of a proposal that the recorded program does not fit


@dataclass(frozen=True)
class Weights:
    """How far to trust the additive model.

    factors: of a group of slots, on what a smaller width adds. depth: logarithm of the factor between the last and the
    first slot. curve: exponent on additions. errors: of a group of options for accuracy, how many standard errors a
    gain must be above zero to be taken.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    depth: float = 0.0
    curve: float = 1.0
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Alone:
    """One option of one slot, measured alone, in bits of divergence.

    moved: of the scores from the unchanged ones; gain: how much nearer they come to float's; error: its standard error.
    """

    slot: Slot
    value: Any
    moved: float
    gain: float
    error: float


Added = list[dict[int, float]]  # of every width slot: width -> bits of divergence that it adds


def added_alone(slots: Sequence[Slot], alone: Sequence[Alone]) -> Added:
    """From changes of the base; what rounding moves whatever the change is no reason against any of them."""
    floor = min((entry.moved for entry in alone), default=0.0)
    moved: dict[tuple[str, str], dict[int, float]] = {}
    for entry in alone:
        if entry.slot.is_width:
            moved.setdefault((entry.slot.site, entry.slot.key), {})[entry.value] = max(entry.moved - floor, 1e-9)
    return [_rising(moved[slot.site, slot.key], slot.base) for slot in slots]


def _rising(added: dict[int, float], base: int) -> dict[int, float]:
    """By width: fewer bits add no less, and the base adds nothing.

    A bit more quarters the error's power. Where the measurement says a third or worse, it is noise.
    """
    result, least, lowest = {base: 0.0}, 0.0, min(added, default=0)
    for bits in sorted(added, reverse=True):
        least = max(least, min(added[bits], added[lowest] * 3.0 ** (lowest - bits)))
        result[bits] = least
    return result


def neighbours(slot: Slot, bits: int) -> tuple[int | None, int | None]:
    """(next narrower, next wider) width of a slot."""
    every = sorted({slot.base, *slot.options})
    at = every.index(bits)
    return (every[at - 1] if at else None), (every[at + 1] if at + 1 < len(every) else None)


def added_around(slots: Sequence[Slot], widths: Widths, moved: Mapping[tuple[int, int], float]) -> Added:
    """From changes of a mix with `widths`: to the next width on either side, none further.

    moved: of (slot, width). A wider one takes as much of the error away as it moves the scores.
    """
    floor = min(moved.values(), default=0.0)
    result = []
    for i, slot in enumerate(slots):
        below, above = neighbours(slot, widths[i])
        table = {widths[i]: 0.0}
        if above is not None:
            table = {above: 0.0, widths[i]: max(moved[i, above] - floor, 1e-9)}
        if below is not None:
            table[below] = table[widths[i]] + max(moved[i, below] - floor, 1e-9)
        result.append(table)
    return result


class Additive:
    """Makes mixes of one base preset from what widths add and what other options gain."""

    def __init__(
        self, preset: str, price: Price, added: Added, alone: Sequence[Alone], measure: Callable[[Mix], Usage]
    ) -> None:
        self.preset, self.price, self.measure, self._added = preset, price, measure, added
        self.others = [entry for entry in alone if not entry.slot.is_width]

    def with_added(self, added: Added) -> Additive:
        """The same with other figures for widths."""
        return Additive(self.preset, self.price, added, self.others, self.measure)

    def groups(self) -> tuple[list[str], list[str]]:
        """(groups of widths, groups of options for accuracy)."""
        return (
            sorted({slot.group for slot, added in zip(self.price.slots, self._added, strict=True) if len(added) > 1}),
            sorted({entry.slot.group for entry in self.others}),
        )

    def mix(self, weights: Weights, budget: Budget) -> Mix | None:
        """The mix that the weighted model finds best, within the budget on its recorded program; None if none is."""
        options = self._taken(weights)
        limits = dict(budget.limits)
        for _ in range(ROUNDS):
            widths = self._widths(weights, limits)
            if widths is None:
                return None
            mix = Mix(self.preset, merged([*options, *self._overrides(widths)]))
            used = self.measure(mix)
            if budget.fits(used):
                return mix
            self.price.learn(widths, used)
            for name in ("bytes", "bitops"):  # what the options for accuracy cost beside the widths
                if name in limits:
                    excess = getattr(used, name) - getattr(self.price, name)(widths)
                    limits[name] = budget.limits[name] - max(0.0, excess)
        return None

    def _taken(self, weights: Weights) -> list[dict[str, Any]]:
        best: dict[tuple[str, str], Alone] = {}
        for entry in self.others:
            if entry.gain > weights.errors.get(entry.slot.group, 3.0) * entry.error:
                key = entry.slot.site, entry.slot.group
                if key not in best or best[key].gain < entry.gain:
                    best[key] = entry
        return [entry.slot.options[entry.value] for entry in best.values()]

    def _overrides(self, widths: Widths) -> list[dict[str, Any]]:
        pairs = zip(self.price.slots, widths, strict=True)
        return [slot.options[bits] for slot, bits in pairs if bits != slot.base]

    def _widths(self, weights: Weights, limits: Mapping[str, float]) -> Widths | None:
        """Greedy: the cheapest steps down for each share of the excess until all fits, then up into what is left."""
        costs = self._costs(weights)
        widths = [max(table) for table in costs]
        state = _Excess(self.price, limits, widths)
        while state.total() > 0.0:
            steps = [
                ((costs[i][bits] - costs[i][widths[i]]) / saved, i, bits)
                for i in range(len(widths))
                for bits in costs[i]
                if bits < widths[i] and (saved := state.saved(i, bits)) > 0.0
            ]
            if not steps:
                return None
            _, i, bits = min(steps)
            state.set(i, bits)
        while True:
            steps = [
                (costs[i][bits] - costs[i][widths[i]], i, bits)
                for i in range(len(widths))
                for bits in costs[i]
                if bits > widths[i] and state.fits(i, bits)
            ]
            if not steps or min(steps)[0] >= 0.0:
                return widths
            _, i, bits = min(steps)
            state.set(i, bits)

    def _costs(self, weights: Weights) -> list[dict[int, float]]:
        count = max(1, len(self.price.slots) - 1)
        result = []
        for i, (slot, added) in enumerate(zip(self.price.slots, self._added, strict=True)):
            factor = weights.factors.get(slot.group, 1.0) * math.exp(weights.depth * (i / count - 0.5))
            result.append({bits: factor * value**weights.curve for bits, value in added.items()})
        return result


class _Excess:
    """By how much widths, which `set` changes, are beyond the limits, as shares of these."""

    def __init__(self, price: Price, limits: Mapping[str, float], widths: Widths) -> None:
        self.price, self.limits, self.widths = price, limits, widths
        self.bytes, self.bitops = price.bytes(widths), float(price.bitops(widths))

    def total(self) -> float:
        return self._over(self.bytes, self.bitops) + sum(map(self._wide, self.price.products))

    def _over(self, size: float, bitops: float) -> float:
        pairs = (("bytes", size), ("bitops", bitops))
        return sum(max(0.0, used / self.limits[name] - 1.0) for name, used in pairs if name in self.limits)

    def _wide(self, product: Any) -> float:
        if "accumulator" not in self.limits:
            return 0.0
        return max(0.0, self.price.sum_bits(product, self.widths) / self.limits["accumulator"] - 1.0)

    def _after(self, slot: int, bits: int) -> tuple[float, float, float]:
        """(bytes, bit operations, excess of the sums of this slot's products) at another width."""
        before, touched, held = self.widths[slot], self.price.touched[slot], self.price.held[slot]
        bitops = self.bitops - sum(product.bitops(self.widths) for product in touched)
        size = self.bytes - sum(constant.bytes(self.widths) for constant in held)
        self.widths[slot] = bits
        bitops += sum(product.bitops(self.widths) for product in touched)
        size += sum(constant.bytes(self.widths) for constant in held)
        wide = sum(map(self._wide, touched))
        self.widths[slot] = before
        return size, bitops, wide

    def saved(self, slot: int, bits: int) -> float:
        """How much of the excess another width takes away."""
        size, bitops, wide = self._after(slot, bits)
        now = self._over(self.bytes, self.bitops) + sum(map(self._wide, self.price.touched[slot]))
        return now - self._over(size, bitops) - wide

    def fits(self, slot: int, bits: int) -> bool:
        """Whether all is still within the limits at another width."""
        size, bitops, wide = self._after(slot, bits)
        return self._over(size, bitops) + wide <= 0.0

    def set(self, slot: int, bits: int) -> None:
        self.bytes, self.bitops, _ = self._after(slot, bits)
        self.widths[slot] = bits
