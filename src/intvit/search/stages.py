"""The stages of a search in their order; each is a function of measurements, which the journal may hold already."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from intvit.analysis.subject import Subject
from intvit.errors import IntVitError
from intvit.program import Program
from intvit.progress import Phases
from intvit.quant.presets import preset_names
from intvit.search.budget import Budget
from intvit.search.judge import Mix, gain
from intvit.search.price import Price
from intvit.search.proposals import Added, Additive, Alone, Weights, added_alone, added_around, neighbours
from intvit.search.slots import Slot, merged, slots
from intvit.search.study import Found, refine
from intvit.search.trials import Trials

FINALISTS = 5  # mixes that meet the presets on the final images
SHARES = (0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5)  # of the budget, for the curve of the plot


def integer_presets() -> list[str]:
    """Every preset that quantizes."""
    return [name for name in preset_names() if name != "fp32"]


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    presets: all of them on the search images. alone: single changes. mixes: those of Optuna, the best first. curve: of
    the additive model at other budgets. finalists: on the final images, presets within the budget among them, the
    best first; winner: one of them. widths: slots that the budget asks for.
    """

    presets: list[Found]
    alone: list[Alone]
    mixes: list[Found]
    curve: list[Found]
    finalists: list[Found]
    winner: Found
    widths: list[Slot]

    @property
    def best_preset(self) -> Found | None:
        """Of the finalists."""
        return next((entry for entry in self.finalists if not entry.mix.overrides), None)

    def figures(self, budget: Budget) -> dict[str, object]:
        """For search.json."""
        winner = self.winner.judged
        return {
            "budget": budget.limits,
            "preset": self.winner.mix.preset,
            "overrides": self.winner.mix.overrides,
            "program": winner.program,
            "bytes": winner.used.bytes,
            "bitops": winner.used.bitops,
            "widest": winner.used.widest,
            "accumulator": winner.used.accumulator if winner.used.sums else None,
            "divergence": winner.divergence,
            "agreement": winner.agreement,
        }


class Search:
    """The stages in order, each a function of measurements."""

    def __init__(self, options: argparse.Namespace, subject: Subject, budget: Budget, trials: Trials) -> None:
        self.options, self.subject, self.budget, self.trials = options, subject, budget, trials
        self.sites: list[str] = []

    def run(self, phases: Phases) -> Outcome:
        """Raises IntVitError where nothing is within the budget."""
        options, names = self.options, integer_presets()
        with phases.begin("presets", len(names)) as step:
            mixes = [Mix(name, {}) for name in names]
            judged = self.trials.measure(mixes, 0, options.search_images, step)
            presets = [Found(mix, result) for mix, result in zip(mixes, judged, strict=True)]
        base = self._base(presets)
        self.subject.quant = base.mix.quant()
        price, others = self._price(base)
        self._check_reach(base, price, presets)
        alone = self._alone(base, [*price.slots, *others], phases)
        additive = Additive(base.mix.preset, price, added_alone(price.slots, alone), alone, self.trials.judge.used)
        found = self._refine(additive, phases, "mixes")
        if price.slots and found:
            added = self._around(found[0], price, phases)
            found = self._refine(additive.with_added(added), phases, "mixes again", found)
        curve = self._curve(additive, phases)
        finalists, winner = self._finals(presets, found, phases)
        return Outcome(presets, alone, found, curve, finalists, winner, list(price.slots))

    def _base(self, presets: list[Found]) -> Found:
        """What mixes begin with: the preset nearest to float of those that differ in widths at most from the budget.

        Bias correction fits means of the calibration images, a few classes' perhaps: presets have it, mixes don't.
        """
        widest = self.budget.limits.get("widest", float("inf"))
        kept = [entry for entry in presets if entry.judged.used.widest <= widest]
        plain = [entry for entry in kept if not entry.mix.quant().observer.bias_correction]
        if not plain:
            raise IntVitError(f"--budget {self.budget}: no preset has tensors that narrow")
        return min(plain, key=lambda entry: entry.judged.divergence)

    def _price(self, base: Found) -> tuple[Price, list[Slot]]:
        """The price of the width slots that matter to the budget, and all other slots."""
        judge = self.trials.judge
        found = slots(self.subject, self.options.bits, self.budget.limits.get("widest", float("inf")))
        widths = [slot for slot in found if slot.is_width]

        def program(overrides: dict[str, Any]) -> Program:
            return judge.program(Mix(base.mix.preset, overrides))

        price = Price(program, widths, base.judged.used)
        widths = [slot for i, slot in enumerate(widths) if price.matters(i, self.budget)]
        quant = base.mix.quant()
        self.subject.calibrated(quant)
        self.sites = quant.sites
        return Price(program, widths, base.judged.used), [slot for slot in found if not slot.is_width]

    def _check_reach(self, base: Found, price: Price, presets: list[Found]) -> None:
        """Raise IntVitError where neither a preset nor the narrowest mix is within the budget."""
        narrowest = merged(slot.options[min(slot.options)] for slot in price.slots)
        used = self.trials.judge.used(Mix(base.mix.preset, narrowest))
        if not any(map(self.budget.fits, [used, *(entry.judged.used for entry in presets)])):
            raise IntVitError(
                f"--budget {self.budget}: no mix is within it, the narrowest has {self.budget.used(used)}; "
                "narrower --bits, or a larger budget"
            )

    def _alone(self, base: Found, tried: list[Slot], phases: Phases) -> list[Alone]:
        """Every option alone, beside the base."""
        count = self.options.alone_images
        pairs = [(slot, value) for slot in tried for value in slot.options]
        with phases.begin("changes", len(pairs) + 1) as step:
            (unchanged,) = self.trials.measure([base.mix], 0, count, step)
            mixes = [Mix(base.mix.preset, slot.options[value]) for slot, value in pairs]
            judged = self.trials.measure(mixes, 0, count, step, against=base.mix)
        return [
            Alone(slot, value, result.moved or 0.0, *gain(result, unchanged))
            for (slot, value), result in zip(pairs, judged, strict=True)
        ]

    def _refine(self, additive: Additive, phases: Phases, name: str, known: Sequence[Found] = ()) -> list[Found]:
        """Mixes of Optuna's trials, those known before among them, the best first; each program once."""
        options, count = self.options, self.options.search_images
        with phases.begin(name, options.trials) as step:
            found = refine(additive, self.budget, self.trials, options.trials, count, options.seed, step)
        every = {entry.judged.program: entry for entry in (*known, *found)}
        return sorted(every.values(), key=lambda entry: entry.judged.divergence)

    def _around(self, best: Found, price: Price, phases: Phases) -> Added:
        """What widths add beside the best mix: errors as large as a narrow budget asks for do not just add up."""
        widths = [slot.value_in(best.mix.overrides) for slot in price.slots]
        tried = [
            (i, bits) for i, slot in enumerate(price.slots) for bits in neighbours(slot, widths[i]) if bits is not None
        ]
        with phases.begin("around", len(tried)) as step:
            mixes = [self._changed(best.mix, price.slots[i], bits) for i, bits in tried]
            judged = self.trials.measure(mixes, 0, self.options.alone_images, step, against=best.mix)
        moved = {place: result.moved or 0.0 for place, result in zip(tried, judged, strict=True)}
        return added_around(price.slots, widths, moved)

    @staticmethod
    def _changed(mix: Mix, slot: Slot, bits: int) -> Mix:
        setting = {slot.site: {slot.part: {slot.key: bits}}}
        return Mix(mix.preset, merged([mix.overrides, setting]))

    def _curve(self, additive: Additive, phases: Phases) -> list[Found]:
        """Mixes of the additive model as it is at other budgets, where a budget is a quantity."""
        limited = self.budget.limits.keys() & {"bytes", "bitops"}
        shares = SHARES if limited else ()
        budgets = [
            Budget({name: limit * (share if name in limited else 1.0) for name, limit in self.budget.limits.items()})
            for share in shares
        ]
        mixes = [mix for budget in budgets if (mix := additive.mix(Weights(), budget)) is not None]
        if not mixes:
            return []
        with phases.begin("curve", len(mixes)) as step:
            judged = self.trials.measure(mixes, 0, self.options.search_images, step)
        return [Found(mix, result) for mix, result in zip(mixes, judged, strict=True)]

    def _finals(self, presets: list[Found], mixes: list[Found], phases: Phases) -> tuple[list[Found], Found]:
        """Presets within the budget and the best mixes on the final images, the best first, and the winner.

        A mix wins only where its lead over the best preset is larger than the lead's standard error.
        """
        within = [entry.mix for entry in presets if self.budget.fits(entry.judged.used)]
        changed = [entry.mix for entry in mixes if entry.mix.overrides]
        meeting = [*within, *changed[:FINALISTS]]
        if not meeting:
            raise IntVitError(
                f"--budget {self.budget}: no mix of {self.options.trials} trials is within it; more --trials"
            )
        first, count = self.options.search_images, self.options.final_images
        with phases.begin("final", len(meeting)) as step:
            judged = self.trials.measure(meeting, first, count, step)
        finalists = [Found(mix, result) for mix, result in zip(meeting, judged, strict=True)]
        finalists.sort(key=lambda entry: entry.judged.divergence)
        winner = finalists[0]
        preset = next((entry for entry in finalists if not entry.mix.overrides), None)
        if preset is not None:
            lead, error = gain(winner.judged, preset.judged)
            winner = winner if lead > error else preset
        return finalists, winner
