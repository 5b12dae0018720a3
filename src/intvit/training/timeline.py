"""The timeline of a run: its schedule laid out over optimizer steps, known once the data says how many an epoch has.

Everything is a pure function of the step, so that a resumed run meets the same phase, learning rate and weight decay.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intvit.training.schedule import ScheduleConfig, TrainingPhase
from intvit.training.scheduler import rate_factors

PHASES = ("head", "float", "qat", "frozen")  # in this order, each optional


@dataclass(frozen=True)
class PhaseSteps:
    """A training phase in the steps of one run: global steps start..stop-1.

    mode: what the model computes; calibrated: a calibration lies before it; frozen: ranges follow the data no more;
    head: the classifier alone is trained; factors: of the rate behind the warm-up, None for the phase's own cosine.
    """

    name: str
    phase: TrainingPhase
    start: int
    stop: int
    mode: str
    calibrated: bool
    frozen: bool
    head: bool = False
    factors: tuple[float, ...] | None = None

    def learning_rate(self, step: int) -> float:
        """Rate of a global step inside the phase."""
        number, length = step - self.start, self.stop - self.start
        behind = number - self.phase.warmup_steps(length)
        if self.factors is None or behind < 0:
            return self.phase.learning_rate(number, length)
        return self.phase.lr * self.factors[behind]


@dataclass(frozen=True)
class Timeline:
    """The phases in order, without gaps. Without quantization (preset fp32) every one of them computes reals."""

    phases: tuple[PhaseSteps, ...]
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.phases[-1].stop if self.phases else 0

    @property
    def epochs(self) -> int:
        """Epochs of the whole run; the schedule may end inside the last one."""
        return -(-self.steps // self.steps_per_epoch) if self.phases else 0

    def at(self, step: int) -> PhaseSteps | None:
        """The phase that holds a global step; None behind the last."""
        return next((phase for phase in self.phases if step < phase.stop), None)


def training_phases(schedule: ScheduleConfig) -> dict[str, TrainingPhase]:
    """The phases that take steps, in order; empty where a schedule calibrates alone."""
    phases: dict[str, TrainingPhase | None] = {name: getattr(schedule, name) for name in PHASES}
    return {name: phase for name, phase in phases.items() if phase is not None}


def lay_out(
    schedule: ScheduleConfig, steps_per_epoch: int, quantized: bool, scheduler: Mapping[str, Any] | None = None
) -> Timeline:
    """steps_per_epoch: optimizer steps, at least 1 where a phase takes steps; quantized: false for a float model.

    scheduler: of torch, in place of every phase's cosine; see `rate_factors`.
    """
    phases: list[PhaseSteps] = []
    for name, phase in training_phases(schedule).items():
        start = phases[-1].stop if phases else 0
        integer = quantized and name in ("qat", "frozen")
        length = min(phase.length(steps_per_epoch), schedule.limit_steps or sys.maxsize)
        phases.append(
            PhaseSteps(
                name=name,
                phase=phase,
                start=start,
                stop=start + length,
                mode="integer" if integer else "float",
                calibrated=integer,
                frozen=integer and name == "frozen",
                head=name == "head",
                factors=None if scheduler is None else rate_factors(scheduler, length - phase.warmup_steps(length)),
            )
        )
    return Timeline(tuple(phases), steps_per_epoch)
