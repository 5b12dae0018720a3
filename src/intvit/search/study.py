"""Optuna over the weights of the additive model: every trial is a candidate within the budget, truly measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from intvit.errors import IntVitError

try:
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import Trial, TrialState
except ImportError as error:
    raise IntVitError("intvit search needs Optuna: pip install 'intvit[sweep]'") from error

from intvit.search.additive_model import AdditiveModel, AdditiveWeights
from intvit.search.budget import Budget
from intvit.search.cached_evaluator import CachedEvaluator
from intvit.search.evaluator import Candidate, Measurement

ROUND = 8  # candidates drawn at once: a constant, so that the number of processes changes no result
CAUTION = (2.0, 3.0, 5.0, 8.0)  # standard errors of the first candidates, for gains in accuracy
FACTOR, DEPTH, CURVE = 4.0, 1.5, (0.6, 1.4)


@dataclass(frozen=True)
class Evaluated:
    """A candidate and what it does on the search's images."""

    candidate: Candidate
    measurement: Measurement


def refine(
    additive: AdditiveModel,
    budget: Budget,
    cached: CachedEvaluator,
    total: int,
    count: int,
    seed: int,
    step: Callable[..., None],
) -> list[Evaluated]:
    """The candidates of `total` trials that are within the budget, measured on the first `count` images; each once."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=ROUND)
    study = optuna.create_study(sampler=sampler)  # in memory: the journal of measurements leads it the same way again
    distributions = _distributions(additive)
    for errors in CAUTION:
        plain = dict.fromkeys(distributions, 0.0) | {"curve": 1.0}
        study.enqueue_trial(plain | {name: errors for name in distributions if name.startswith("errors ")})
    by_program: dict[str, Evaluated] = {}
    for begun in range(0, total, ROUND):
        drawn = [study.ask(distributions) for _ in range(min(ROUND, total - begun))]
        candidates = [additive.candidate(_weights(trial), budget) for trial in drawn]
        known = [candidate for candidate in candidates if candidate is not None]
        measured = iter(cached.measure(known, 0, count, step))
        for trial, candidate in zip(drawn, candidates, strict=True):
            if candidate is None:
                study.tell(trial, state=TrialState.FAIL)
                step()
            else:
                entry = Evaluated(candidate, next(measured))
                by_program.setdefault(entry.measurement.program, entry)
                study.tell(trial, entry.measurement.divergence)
    return list(by_program.values())


def _distributions(additive: AdditiveModel) -> dict[str, BaseDistribution]:
    """`factor GROUP` (logarithm to base 2), `depth`, `curve`, `errors GROUP`."""
    widths, others = additive.groups()
    bounds = {f"factor {group}": (-FACTOR / 2, FACTOR / 2) for group in widths if len(widths) > 1}
    if widths:
        bounds |= {"depth": (-DEPTH, DEPTH), "curve": CURVE}
    bounds |= {f"errors {group}": (CAUTION[0], CAUTION[-1]) for group in others}
    return {name: FloatDistribution(*values) for name, values in bounds.items()}


def _weights(trial: Trial) -> AdditiveWeights:
    values = trial.params

    def of(prefix: str) -> dict[str, float]:
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    factors = {group: 2.0**value for group, value in of("factor ").items()}
    return AdditiveWeights(factors, values.get("depth", 0.0), values.get("curve", 1.0), of("errors "))
