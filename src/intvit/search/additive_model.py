"""The additive model: what every value of a choice adds to the divergence, and the best candidate if that is all.

`AdditiveWeights` bend the model, because additions are measured alone and candidates are not sums: Optuna searches
over them, and every candidate that comes of it fills the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from intvit.search.budget import Budget, Usage
from intvit.search.choices import Choice, merged
from intvit.search.cost_model import CostModel, Widths
from intvit.search.evaluator import Candidate

ROUNDS = 8  # of a candidate whose recorded program does not fit


@dataclass(frozen=True)
class AdditiveWeights:
    """How far to trust the additive model.

    factors: of a group of choices, on what a smaller width adds. depth: logarithm of the factor between the last and
    the first choice. curve: exponent on additions. errors: of a group of options for accuracy, how many standard errors
    a gain must be above zero to be taken.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    depth: float = 0.0
    curve: float = 1.0
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SingleChange:
    """One option of one choice, measured alone, in bits of divergence.

    moved: of the scores from the unchanged ones; gain: how much nearer they come to float's; error: its standard error.
    """

    choice: Choice
    value: Any
    moved: float
    gain: float
    error: float


Increments = list[dict[int, float]]  # of every width choice: width -> bits of divergence that it adds


def added_alone(choices: Sequence[Choice], alone: Sequence[SingleChange]) -> Increments:
    """From changes of the base; what rounding moves whatever the change is no reason against any of them."""
    floor = min((entry.moved for entry in alone), default=0.0)
    moved: dict[tuple[str, str], dict[int, float]] = {}
    for entry in alone:
        if entry.choice.is_width:
            moved.setdefault((entry.choice.site, entry.choice.key), {})[entry.value] = max(entry.moved - floor, 1e-9)
    return [_rising(moved[choice.site, choice.key], choice.base) for choice in choices]


def _rising(added: dict[int, float], base: int) -> dict[int, float]:
    """By width: fewer bits add no less, and the base adds nothing.

    A bit more quarters the error's power. Where the measurement says a third or worse, it is noise.
    """
    result, least, lowest = {base: 0.0}, 0.0, min(added, default=0)
    for bits in sorted(added, reverse=True):
        least = max(least, min(added[bits], added[lowest] * 3.0 ** (lowest - bits)))
        result[bits] = least
    return result


def neighbours(choice: Choice, bits: int) -> tuple[int | None, int | None]:
    """(next narrower, next wider) width of a choice."""
    every = sorted({choice.base, *choice.options})
    at = every.index(bits)
    return (every[at - 1] if at else None), (every[at + 1] if at + 1 < len(every) else None)


def added_around(choices: Sequence[Choice], widths: Widths, moved: Mapping[tuple[int, int], float]) -> Increments:
    """From changes of a candidate with `widths`: to the next width on either side, none further.

    moved: of (choice, width). A wider one takes as much of the error away as it moves the scores.
    """
    floor = min(moved.values(), default=0.0)
    result = []
    for i, choice in enumerate(choices):
        below, above = neighbours(choice, widths[i])
        table = {widths[i]: 0.0}
        if above is not None:
            table = {above: 0.0, widths[i]: max(moved[i, above] - floor, 1e-9)}
        if below is not None:
            table[below] = table[widths[i]] + max(moved[i, below] - floor, 1e-9)
        result.append(table)
    return result


class AdditiveModel:
    """Makes candidates of one base preset from what widths add and what other options gain."""

    def __init__(
        self,
        preset: str,
        cost_model: CostModel,
        added: Increments,
        alone: Sequence[SingleChange],
        measure: Callable[[Candidate], Usage],
    ) -> None:
        self.preset, self.cost_model, self.measure, self._added = preset, cost_model, measure, added
        self.others = [entry for entry in alone if not entry.choice.is_width]

    def with_added(self, added: Increments) -> AdditiveModel:
        """The same with other figures for widths."""
        return AdditiveModel(self.preset, self.cost_model, added, self.others, self.measure)

    def groups(self) -> tuple[list[str], list[str]]:
        """(groups of widths, groups of options for accuracy)."""
        return (
            sorted(
                {
                    choice.group
                    for choice, added in zip(self.cost_model.choices, self._added, strict=True)
                    if len(added) > 1
                }
            ),
            sorted({entry.choice.group for entry in self.others}),
        )

    def candidate(self, weights: AdditiveWeights, budget: Budget) -> Candidate | None:
        """The weighted model's best candidate that is within the budget on its recorded program; None if none is."""
        options = self._taken(weights)
        limits = dict(budget.limits)
        for _ in range(ROUNDS):
            widths = self._widths(weights, limits)
            if widths is None:
                return None
            candidate = Candidate(self.preset, merged([*options, *self._overrides(widths)]))
            used = self.measure(candidate)
            if budget.fits(used):
                return candidate
            self.cost_model.learn(widths, used)
            for name in ("bytes", "bitops"):  # what the options for accuracy cost beside the widths
                if name in limits:
                    excess = getattr(used, name) - getattr(self.cost_model, name)(widths)
                    limits[name] = budget.limits[name] - max(0.0, excess)
        return None

    def _taken(self, weights: AdditiveWeights) -> list[dict[str, Any]]:
        best: dict[tuple[str, str], SingleChange] = {}
        for entry in self.others:
            if entry.gain > weights.errors.get(entry.choice.group, 3.0) * entry.error:
                key = entry.choice.site, entry.choice.group
                if key not in best or best[key].gain < entry.gain:
                    best[key] = entry
        return [entry.choice.options[entry.value] for entry in best.values()]

    def _overrides(self, widths: Widths) -> list[dict[str, Any]]:
        pairs = zip(self.cost_model.choices, widths, strict=True)
        return [choice.options[bits] for choice, bits in pairs if bits != choice.base]

    def _widths(self, weights: AdditiveWeights, limits: Mapping[str, float]) -> Widths | None:
        """Greedy: the cheapest steps down for each share of the excess until all fits, then up into what is left."""
        costs = self._costs(weights)
        widths = [max(table) for table in costs]
        state = _Excess(self.cost_model, limits, widths)
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

    def _costs(self, weights: AdditiveWeights) -> list[dict[int, float]]:
        count = max(1, len(self.cost_model.choices) - 1)
        result = []
        for i, (choice, added) in enumerate(zip(self.cost_model.choices, self._added, strict=True)):
            factor = weights.factors.get(choice.group, 1.0) * math.exp(weights.depth * (i / count - 0.5))
            result.append({bits: factor * value**weights.curve for bits, value in added.items()})
        return result


class _Excess:
    """By how much widths, which `set` changes, are beyond the limits, as shares of these."""

    def __init__(self, cost_model: CostModel, limits: Mapping[str, float], widths: Widths) -> None:
        self.cost_model, self.limits, self.widths = cost_model, limits, widths
        self.bytes, self.bitops = cost_model.bytes(widths), float(cost_model.bitops(widths))

    def total(self) -> float:
        return self._over(self.bytes, self.bitops) + sum(map(self._wide, self.cost_model.products))

    def _over(self, size: float, bitops: float) -> float:
        pairs = (("bytes", size), ("bitops", bitops))
        return sum(max(0.0, used / self.limits[name] - 1.0) for name, used in pairs if name in self.limits)

    def _wide(self, product: Any) -> float:
        if "accumulator" not in self.limits:
            return 0.0
        return max(0.0, self.cost_model.sum_bits(product, self.widths) / self.limits["accumulator"] - 1.0)

    def _after(self, choice: int, bits: int) -> tuple[float, float, float]:
        """(bytes, bit operations, excess of the sums of this choice's products) at another width."""
        before, touched, held = self.widths[choice], self.cost_model.touched[choice], self.cost_model.held[choice]
        bitops = self.bitops - sum(product.bitops(self.widths) for product in touched)
        size = self.bytes - sum(constant.bytes(self.widths) for constant in held)
        self.widths[choice] = bits
        bitops += sum(product.bitops(self.widths) for product in touched)
        size += sum(constant.bytes(self.widths) for constant in held)
        wide = sum(map(self._wide, touched))
        self.widths[choice] = before
        return size, bitops, wide

    def saved(self, choice: int, bits: int) -> float:
        """How much of the excess another width takes away."""
        size, bitops, wide = self._after(choice, bits)
        now = self._over(self.bytes, self.bitops) + sum(map(self._wide, self.cost_model.touched[choice]))
        return now - self._over(size, bitops) - wide

    def fits(self, choice: int, bits: int) -> bool:
        """Whether all is still within the limits at another width."""
        size, bitops, wide = self._after(choice, bits)
        return self._over(size, bitops) + wide <= 0.0

    def set(self, choice: int, bits: int) -> None:
        self.bytes, self.bitops, _ = self._after(choice, bits)
        self.widths[choice] = bits
