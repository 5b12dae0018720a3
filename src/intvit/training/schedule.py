"""The schedule: which phases training passes through, in optimizer steps, and the rates at every step.

Float training, calibration, quantization-aware training, frozen tail: in this order, each optional. Everything is a
pure function of the step, so that a resumed run meets the same phase, learning rate and weight decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from intvit.config.values import Count, NotNegative, Share, TypedConfig
from intvit.errors import IntVitError
from intvit.training.losses import LossConfig

# Named here, because `float` is a field in the class that uses it.
Decay = Annotated[float, Field(gt=0, lt=1, description="null for none")]


@dataclass(frozen=True)
class TrainingPhase(TypedConfig):
    """One phase with gradient: a linear warm-up to `lr`, then a cosine down to lr * min_lr_ratio.

    Its length is given in epochs of the training data or in optimizer steps; `warmup` is a share of it.
    """

    lr: NotNegative
    epochs: int | None
    steps: int | None
    min_lr_ratio: Share
    warmup: Share
    weight_decay: Share

    def check(self, where: str) -> None:
        """Raise IntVitError naming the key that makes no sense."""
        if (self.epochs is None) == (self.steps is None):
            raise IntVitError(f"{where}: give either epochs or steps (epochs={self.epochs}, steps={self.steps})")
        if (self.epochs or self.steps or 0) < 1:
            raise IntVitError(f"{where}: a phase lasts at least 1 epoch or step; {where}=null leaves it out")

    def length(self, steps_per_epoch: int) -> int:
        """Optimizer steps."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def learning_rate(self, step: int, length: int) -> float:
        """Rate of the phase's optimizer step 0..length-1."""
        warmup = round(self.warmup * length)
        if step < warmup:
            return self.lr * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, length - warmup)
        low = self.lr * self.min_lr_ratio
        return low + (self.lr - low) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class CalibrationPhase(TypedConfig):
    """Ranges from `images` training images under the evaluation transform; no gradient, no steps.

    measure: validate float and integer right afterwards, as the figures that QAT starts from.
    """

    images: Count
    measure: bool


@dataclass(frozen=True)
class ScheduleConfig(TypedConfig):
    """The `schedule` group."""

    float: TrainingPhase | None
    calibrate: CalibrationPhase | None
    qat: TrainingPhase | None
    frozen: TrainingPhase | None
    loss: LossConfig
    ema_decay: Decay | None  # of an average of the weights, which is then what is validated and saved

    def __post_init__(self) -> None:
        for key in ("float", "qat", "frozen"):
            if (phase := getattr(self, key)) is not None:
                phase.check(f"schedule.{key}")
        if self.calibrate is None and (self.qat or self.frozen):
            raise IntVitError("schedule.calibrate=null: integer phases (qat, frozen) need a calibration before them")


@dataclass(frozen=True)
class Span:
    """A training phase in the steps of one run: global steps start..stop-1.

    mode: what the model computes; calibrated: a calibration lies before it; frozen: ranges follow the data no more.
    """

    name: str
    phase: TrainingPhase
    start: int
    stop: int
    mode: str
    calibrated: bool
    frozen: bool

    def learning_rate(self, step: int) -> float:
        """Rate of a global step inside the span."""
        return self.phase.learning_rate(step - self.start, self.stop - self.start)


@dataclass(frozen=True)
class Plan:
    """The schedule laid out over optimizer steps. Without quantization (preset fp32) every phase computes reals."""

    spans: tuple[Span, ...]
    calibrates: bool

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spans[-1].stop if self.spans else 0

    def index(self, step: int) -> int:
        """Index of the span that holds a global step."""
        return next(index for index, span in enumerate(self.spans) if step < span.stop)


def plan(schedule: ScheduleConfig, steps_per_epoch: int, quantized: bool) -> Plan:
    """Lay the phases out; `quantized` is false for a model that stays float."""
    spans: list[Span] = []
    for name in ("float", "qat", "frozen"):
        phase: TrainingPhase | None = getattr(schedule, name)
        if phase is None:
            continue
        start = spans[-1].stop if spans else 0
        integer = quantized and name != "float"
        spans.append(
            Span(
                name=name,
                phase=phase,
                start=start,
                stop=start + phase.length(steps_per_epoch),
                mode="integer" if integer else "float",
                calibrated=integer,
                frozen=integer and name == "frozen",
            )
        )
    return Plan(tuple(spans), quantized and schedule.calibrate is not None)
