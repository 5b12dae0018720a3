"""A sweep: keeps trials of train.py going until there are enough, and goes on after any interruption.

Everything is in outputs/NAME: Optuna's storage, one run folder and log for each trial, and results.csv.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from intvit.errors import IntVitError

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, Trial, TrialState

    from intvit.sweeps.space import Space
except ImportError as error:
    raise IntVitError("intvit sweep needs Optuna: pip install 'intvit[sweep]'") from error

from intvit.sweeps.trials import Trials

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
POLL = 0.5  # seconds
FAILURES = 3  # that the first trials may have: then the command is wrong, not the parameters


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep is, and how it runs.

    name: of the study. overrides: of train.py; those with several values are searched over. objective: figure of
    summary.json to maximize. trials: how many in all; grid: every combination once instead. parallel: trials at a time.
    prune: end trials below the median of earlier ones. storage: an Optuna URL; None for a journal in the folder.
    seed: of the search.
    """

    name: str
    overrides: Sequence[str] = ()
    objective: str = "integer/top1"
    trials: int = 20
    grid: bool = False
    parallel: int = 1
    prune: bool = False
    storage: str | None = None
    seed: int = 0


class Sweep:
    """Keeps `parallel` trials going until there are enough."""

    def __init__(self, study: optuna.Study, space: Space, trials: Trials, settings: SweepSettings) -> None:
        self.study, self.space, self.trials = study, space, trials
        self.objective, self.parallel = settings.objective, settings.parallel
        self.total = None if settings.grid else settings.trials
        self._running: dict[int, tuple[Trial, subprocess.Popen[bytes]]] = {}
        self._pruned: set[int] = set()

    def run(self) -> None:
        """Until all trials have ended."""
        left = [trial for trial in self.study.trials if trial.state == TrialState.RUNNING]
        while True:
            for number in list(self._running):
                self._look_after(number)
            while len(self._running) < self.parallel:
                if left:
                    self._start(self._again(left.pop(0)))
                elif self._more():
                    self._start(self.study.ask(self.space.distributions))
                else:
                    break
            if not self._running:
                return
            time.sleep(POLL)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Let the trials save their step, and leave them to the next call."""
        for trial, (_, process) in self._running.items():
            self.trials.stop(trial, process)
        for _, process in self._running.values():
            process.wait()
        print("interrupted; the same command goes on", flush=True)
        raise SystemExit(128 + number)

    def _more(self) -> bool:
        if self.total is None:  # a grid, queued when the study was made
            return any(trial.state == TrialState.WAITING for trial in self.study.trials)
        return sum(len(trial.params) == len(self.space.distributions) for trial in self.study.trials) < self.total

    def _again(self, frozen: FrozenTrial) -> Trial:
        return Trial(self.study, frozen._trial_id)

    def _start(self, trial: Trial) -> None:
        number, missing = trial.number, self.space.distributions.keys() - trial.params.keys()
        if missing:  # killed while Optuna drew them; nothing has run
            self.study.tell(number, state=TrialState.FAIL)
        elif (known := self._known(trial)) is not None:
            self._end(number, known)
        else:
            print(f"trial {number}: {_describe(trial.params)}", flush=True)
            self._running[number] = trial, self.trials.start(number, self.space.overrides(trial.params))

    def _known(self, trial: Trial) -> float | None:
        """The result of this trial from before an interruption, or that of an equal one."""
        if (value := self.trials.objective(trial.number, self.objective)) is not None:
            return value
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return next((other.value for other in done if other.params == trial.params), None)

    def _look_after(self, number: int) -> None:
        trial, process = self._running[number]
        reported = self.study.trials[number].intermediate_values
        for step, value in self.trials.progress(number, self.objective).items():
            if step not in reported:
                trial.report(value, step)
        if process.poll() is None:
            if number not in self._pruned and trial.should_prune():
                self._pruned.add(number)
                self.trials.stop(number, process)
            return
        del self._running[number]
        reached = self.trials.objective(number, self.objective)
        if reached is not None and process.returncode == 0:
            self._end(number, reached)
        elif number in self._pruned:
            print(f"trial {number}: pruned", flush=True)
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self._fail(number)

    def _end(self, number: int, value: float) -> None:
        self.study.tell(number, value)
        best = self.study.best_trial
        print(f"trial {number}: {self.objective} {value:.2f}, best {best.value:.2f} of trial {best.number}", flush=True)

    def _fail(self, number: int) -> None:
        reason = self.trials.last_words(number)
        self.study.tell(number, state=TrialState.FAIL)
        print(f"trial {number}: failed ({reason}), see {self.trials.log(number)}", flush=True)
        states = [trial.state for trial in self.study.trials if trial.state in ENDED]
        if states == [TrialState.FAIL] * FAILURES:
            for other, (_, process) in self._running.items():
                self.trials.stop(other, process)
            raise IntVitError(f"the first {FAILURES} trials failed; the last one said: {reason}")


def open_study(settings: SweepSettings, folder: Path) -> tuple[optuna.Study, Space, SweepSettings]:
    """The study, new or as it was left, its space, and the settings with what the study began with.

    Settings without overrides take those of the study, with its objective. Raises IntVitError for others than these.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = settings.storage or JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    pruner = optuna.pruners.MedianPruner() if settings.prune else optuna.pruners.NopPruner()
    study = optuna.create_study(
        storage=storage, study_name=settings.name, pruner=pruner, direction="maximize", load_if_exists=True
    )
    # A sampler that begins with the same seed after every interruption would draw the same parameters again.
    seed = settings.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=settings.parallel > 1)
    asked = {"overrides": list(settings.overrides), "objective": settings.objective, "grid": settings.grid}
    before = study.user_attrs.get("sweep")
    if before is None:
        space = Space(settings.overrides)
        for parameters in space.grid() if settings.grid else ():
            study.enqueue_trial(parameters)
        study.set_user_attr("sweep", asked)  # last: a sweep killed before is begun again
        return study, space, settings
    if settings.overrides and before != asked:
        changed = next(key for key in asked if asked[key] != before[key])
        raise IntVitError(f"sweep {settings.name} began with {changed} {before[changed]}: give another NAME")
    settings = replace(settings, objective=before["objective"], grid=before["grid"])
    return study, Space(before["overrides"]), settings


def table(study: optuna.Study, trials: Trials, objective: str) -> list[dict[str, Any]]:
    """One row for each trial, the best first."""
    ranked = sorted(study.trials, key=lambda trial: -math.inf if trial.value is None else trial.value, reverse=True)
    return [
        {
            "trial": trial.number,
            **trial.params,
            objective: trial.value if trial.state == TrialState.COMPLETE else trial.state.name.lower(),
            "run folder": str(trials.run_folder(trial.number)),
        }
        for trial in ranked
    ]


def has_result(study: optuna.Study) -> bool:
    """Whether a trial has ended with one."""
    return any(trial.state == TrialState.COMPLETE for trial in study.trials)


def _describe(parameters: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in parameters.items())
