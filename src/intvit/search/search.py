"""A search, step by step; each step is a function of measurements, which the journal may hold already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from intvit.analysis.analyzed_model import AnalyzedModel
from intvit.config.presets import presets
from intvit.errors import IntVitError
from intvit.program import Program
from intvit.progress import Phases
from intvit.search.additive_model import (
    AdditiveModel,
    AdditiveWeights,
    Increments,
    SingleChange,
    added_alone,
    added_around,
    neighbours,
)
from intvit.search.budget import Budget
from intvit.search.cached_evaluator import CachedEvaluator
from intvit.search.choices import Choice, choices, merged
from intvit.search.cost_model import CostModel
from intvit.search.evaluator import Candidate, gain
from intvit.search.study import Evaluated, refine

FINALISTS = 5  # candidates that meet the presets on the final images
SHARES = (0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5)  # of the budget, for the curve of the plot


def integer_presets() -> list[str]:
    """Every preset that quantizes."""
    return [name for name in presets("quant") if name != "fp32"]


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    presets: all of them on the search images. alone: single changes. candidates: those of Optuna, the best first.
    curve: of the additive model at other budgets. finalists: on the final images, presets within the budget among them,
    the best first; winner: one of them. widths: choices that the budget asks for.
    """

    presets: list[Evaluated]
    alone: list[SingleChange]
    candidates: list[Evaluated]
    curve: list[Evaluated]
    finalists: list[Evaluated]
    winner: Evaluated
    widths: list[Choice]

    @property
    def best_preset(self) -> Evaluated | None:
        """Of the finalists."""
        return next((entry for entry in self.finalists if not entry.candidate.overrides), None)

    def figures(self, budget: Budget) -> dict[str, object]:
        """For search.json."""
        winner = self.winner.measurement
        return {
            "budget": budget.limits,
            "preset": self.winner.candidate.preset,
            "overrides": self.winner.candidate.overrides,
            "program": winner.program,
            "bytes": winner.used.bytes,
            "bitops": winner.used.bitops,
            "widest": winner.used.widest,
            "accumulator": winner.used.accumulator if winner.used.sums else None,
            "divergence": winner.divergence,
            "agreement": winner.agreement,
        }


@dataclass(frozen=True)
class SearchSettings:
    """How thoroughly to search.

    alone_images, search_images, final_images: images for a single change, for a candidate, and for the last ones, which
    are others. trials: candidates that Optuna draws, twice. bits: widths to try, by the names of WIDTHS. seed: of
    Optuna.
    """

    alone_images: int
    search_images: int
    final_images: int
    trials: int
    bits: dict[str, tuple[int, ...]]
    seed: int = 0


class Search:
    """The steps in order, each a function of measurements."""

    def __init__(
        self, settings: SearchSettings, analyzed: AnalyzedModel, budget: Budget, cached: CachedEvaluator
    ) -> None:
        self.settings, self.analyzed, self.budget, self.cached = settings, analyzed, budget, cached
        self.sites: list[str] = []

    def run(self, phases: Phases) -> Outcome:
        """Raises IntVitError where nothing is within the budget."""
        settings, names = self.settings, integer_presets()
        with phases.begin("presets", len(names)) as step:
            plain = [Candidate(name, {}) for name in names]
            measured = self.cached.measure(plain, 0, settings.search_images, step)
            presets = [Evaluated(candidate, result) for candidate, result in zip(plain, measured, strict=True)]
        base = self._base(presets)
        self.analyzed.quant = base.candidate.quant()
        cost_model, others = self._cost_model(base)
        self._check_reach(base, cost_model, presets)
        alone = self._alone(base, [*cost_model.choices, *others], phases)
        additive = AdditiveModel(
            base.candidate.preset, cost_model, added_alone(cost_model.choices, alone), alone, self.cached.evaluator.used
        )
        candidates = self._refine(additive, phases, "candidates")
        if cost_model.choices and candidates:
            added = self._around(candidates[0], cost_model, phases)
            candidates = self._refine(additive.with_added(added), phases, "candidates again", candidates)
        candidates = self._with_every_step(candidates, phases)
        curve = self._curve(additive, phases)
        finalists, winner = self._finals(presets, candidates, phases)
        return Outcome(presets, alone, candidates, curve, finalists, winner, list(cost_model.choices))

    def _base(self, presets: list[Evaluated]) -> Evaluated:
        """What candidates begin with: the preset nearest to float, of those that only widths may keep from the budget.

        Bias correction fits means of the calibration images, a few classes' perhaps: presets have it, candidates don't.
        """
        widest = self.budget.limits.get("widest", float("inf"))
        kept = [entry for entry in presets if entry.measurement.used.widest <= widest]
        plain = [entry for entry in kept if not entry.candidate.quant().observer.bias_correction]
        if not plain:
            raise IntVitError(f"--budget {self.budget}: no preset has tensors that narrow")
        return min(plain, key=lambda entry: entry.measurement.divergence)

    def _cost_model(self, base: Evaluated) -> tuple[CostModel, list[Choice]]:
        """The cost of the width choices that matter to the budget, and all other choices."""
        evaluator = self.cached.evaluator
        every = choices(self.analyzed, self.settings.bits, self.budget.limits.get("widest", float("inf")))
        widths = [choice for choice in every if choice.is_width]

        def program(overrides: dict[str, Any]) -> Program:
            return evaluator.program(Candidate(base.candidate.preset, overrides))

        cost_model = CostModel(program, widths, base.measurement.used)
        widths = [choice for i, choice in enumerate(widths) if cost_model.matters(i, self.budget)]
        quant = base.candidate.quant()
        self.analyzed.calibrated(quant)
        self.sites = quant.sites
        return CostModel(program, widths, base.measurement.used), [choice for choice in every if not choice.is_width]

    def _check_reach(self, base: Evaluated, cost_model: CostModel, presets: list[Evaluated]) -> None:
        """Raise IntVitError where neither a preset nor the narrowest candidate is within the budget."""
        narrowest = merged(choice.options[min(choice.options)] for choice in cost_model.choices)
        used = self.cached.evaluator.used(Candidate(base.candidate.preset, narrowest))
        if not any(map(self.budget.fits, [used, *(entry.measurement.used for entry in presets)])):
            raise IntVitError(
                f"--budget {self.budget}: no candidate is within it, the narrowest has {self.budget.used(used)}; "
                "narrower --bits, or a larger budget"
            )

    def _alone(self, base: Evaluated, tried: list[Choice], phases: Phases) -> list[SingleChange]:
        """Every option alone, beside the base."""
        count = self.settings.alone_images
        pairs = [(choice, value) for choice in tried for value in choice.options]
        with phases.begin("changes", len(pairs) + 1) as step:
            (unchanged,) = self.cached.measure([base.candidate], 0, count, step)
            candidates = [Candidate(base.candidate.preset, choice.options[value]) for choice, value in pairs]
            measured = self.cached.measure(candidates, 0, count, step, against=base.candidate)
        return [
            SingleChange(choice, value, result.moved or 0.0, *gain(result, unchanged))
            for (choice, value), result in zip(pairs, measured, strict=True)
        ]

    def _refine(
        self, additive: AdditiveModel, phases: Phases, name: str, known: Sequence[Evaluated] = ()
    ) -> list[Evaluated]:
        """Candidates of Optuna's trials, those known before among them, the best first; each program once."""
        settings, count = self.settings, self.settings.search_images
        with phases.begin(name, settings.trials) as step:
            evaluated = refine(additive, self.budget, self.cached, settings.trials, count, settings.seed, step)
        every = {entry.measurement.program: entry for entry in (*known, *evaluated)}
        return sorted(every.values(), key=lambda entry: entry.measurement.divergence)

    def _around(self, best: Evaluated, cost_model: CostModel, phases: Phases) -> Increments:
        """What widths add beside the best candidate: errors as large as a narrow budget asks for do not just add up."""
        widths = [choice.value_in(best.candidate.overrides) for choice in cost_model.choices]
        tried = [
            (i, bits)
            for i, choice in enumerate(cost_model.choices)
            for bits in neighbours(choice, widths[i])
            if bits is not None
        ]
        with phases.begin("around", len(tried)) as step:
            candidates = [self._changed(best.candidate, cost_model.choices[i], bits) for i, bits in tried]
            measured = self.cached.measure(candidates, 0, self.settings.alone_images, step, against=best.candidate)
        moved = {place: result.moved or 0.0 for place, result in zip(tried, measured, strict=True)}
        return added_around(cost_model.choices, widths, moved)

    @staticmethod
    def _changed(candidate: Candidate, choice: Choice, bits: int) -> Candidate:
        setting = {choice.site: {choice.part: {choice.key: bits}}}
        return Candidate(candidate.preset, merged([candidate.overrides, setting]))

    def _with_every_step(self, candidates: list[Evaluated], phases: Phases) -> list[Evaluated]:
        """The best candidates once more, calibrated with every step, among the others, the best first.

        Few bits need all steps, but these take half a minute where ranges alone take less than a second.
        """
        changed = [entry.candidate for entry in candidates if entry.candidate.overrides]
        whole = [candidate.with_every_step() for candidate in changed[:FINALISTS]]
        with phases.begin("every step", len(whole)) as step:
            measured = self.cached.measure(whole, 0, self.settings.search_images, step)
        evaluated = [Evaluated(candidate, result) for candidate, result in zip(whole, measured, strict=True)]
        within = [entry for entry in evaluated if self.budget.fits(entry.measurement.used)]
        return sorted([*candidates, *within], key=lambda entry: entry.measurement.divergence)

    def _curve(self, additive: AdditiveModel, phases: Phases) -> list[Evaluated]:
        """Candidates of the additive model as it is at other budgets, where a budget is a quantity."""
        limited = self.budget.limits.keys() & {"bytes", "bitops"}
        shares = SHARES if limited else ()
        budgets = [
            Budget({name: limit * (share if name in limited else 1.0) for name, limit in self.budget.limits.items()})
            for share in shares
        ]
        candidates = [
            candidate for budget in budgets if (candidate := additive.candidate(AdditiveWeights(), budget)) is not None
        ]
        if not candidates:
            return []
        with phases.begin("curve", len(candidates)) as step:
            measured = self.cached.measure(candidates, 0, self.settings.search_images, step)
        return [Evaluated(candidate, result) for candidate, result in zip(candidates, measured, strict=True)]

    def _finals(
        self, presets: list[Evaluated], candidates: list[Evaluated], phases: Phases
    ) -> tuple[list[Evaluated], Evaluated]:
        """Presets within the budget and the best candidates on the final images, the best first, and the winner.

        A candidate wins only where its lead over the best preset is larger than the lead's standard error.
        """
        within = [entry.candidate for entry in presets if self.budget.fits(entry.measurement.used)]
        changed = [entry.candidate for entry in candidates if entry.candidate.overrides]
        meeting = [*within, *changed[:FINALISTS]]
        if not meeting:
            raise IntVitError(
                f"--budget {self.budget}: no candidate of {self.settings.trials} trials is within it; more --trials"
            )
        first, count = self.settings.search_images, self.settings.final_images
        with phases.begin("final", len(meeting)) as step:
            measured = self.cached.measure(meeting, first, count, step)
        finalists = [Evaluated(candidate, result) for candidate, result in zip(meeting, measured, strict=True)]
        finalists.sort(key=lambda entry: entry.measurement.divergence)
        winner = finalists[0]
        preset = next((entry for entry in finalists if not entry.candidate.overrides), None)
        if preset is not None:
            lead, error = gain(winner.measurement, preset.measurement)
            winner = winner if lead > error else preset
        return finalists, winner
