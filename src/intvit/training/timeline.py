"""The timeline of a run: its schedule laid out over optimizer steps, known once the data says how many an epoch has.

Everything is a pure function of the step, so that a resumed run meets the same phase, learning rate and weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from intvit.training.schedule import ScheduleConfig, TrainingPhase

PHASES = ("head", "float", "qat", "frozen")  # in this order, each optional


@dataclass(frozen=True)
class PhaseSteps:
    """A training phase in the steps of one run: global steps start..stop-1.

    mode: what the model computes; calibrated: a calibration lies before it; frozen: ranges follow the data no more;
    head: the classifier alone is trained.
    """

    name: str
    phase: TrainingPhase
    start: int
    stop: int
    mode: str
    calibrated: bool
    frozen: bool
    head: bool = False

    def learning_rate(self, step: int) -> float:
        """Rate of a global step inside the phase."""
        return self.phase.learning_rate(step - self.start, self.stop - self.start)


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


def lay_out(schedule: ScheduleConfig, steps_per_epoch: int, quantized: bool) -> Timeline:
    """steps_per_epoch: optimizer steps, at least 1 where a phase takes steps; quantized: false for a float model."""
    phases: list[PhaseSteps] = []
    for name, phase in training_phases(schedule).items():
        start = phases[-1].stop if phases else 0
        integer = quantized and name in ("qat", "frozen")
        phases.append(
            PhaseSteps(
                name=name,
                phase=phase,
                start=start,
                stop=start + phase.length(steps_per_epoch),
                mode="integer" if integer else "float",
                calibrated=integer,
                frozen=integer and name == "frozen",
                head=name == "head",
            )
        )
    return Timeline(tuple(phases), steps_per_epoch)
