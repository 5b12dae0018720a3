"""The schedule: which phases training passes through, and the rates inside one.

Float training, calibration, quantization-aware training, frozen tail: in this order, each optional. `timeline` lays
them out over the steps of a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from intvit.errors import IntVitError
from intvit.training.losses import LossConfig

Number = float  # the type, in the one class with a field of that name


@dataclass(frozen=True)
class TrainingPhase:
    """One phase with gradient: a linear warm-up to `lr`, then a cosine down to lr * min_lr_ratio.

    Its length is given in epochs of the training data or in optimizer steps; `warmup` is a share of it.
    """

    lr: float
    epochs: int | None = None
    steps: int | None = None
    min_lr_ratio: float = 0.0
    warmup: float = 0.0
    weight_decay: float = 0.0

    def check(self, where: str) -> None:
        """Raise IntVitError naming the key that makes no sense."""
        if (self.epochs is None) == (self.steps is None):
            raise IntVitError(f"{where}: give either epochs or steps (epochs={self.epochs}, steps={self.steps})")
        if (self.epochs or self.steps or 0) < 1:
            raise IntVitError(f"{where}: a phase lasts at least 1 epoch or step; {where}=null leaves it out")
        for key, low, high in (("min_lr_ratio", 0, 1), ("warmup", 0, 1), ("lr", 0, math.inf), ("weight_decay", 0, 1)):
            if not low <= getattr(self, key) <= high:
                raise IntVitError(f"{where}.{key}={getattr(self, key)}: expected {low} to {high}")

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
class CalibrationPhase:
    """Ranges from `images` training images under the evaluation transform; no gradient, no steps.

    measure: validate float and integer right afterwards, as the figures that QAT starts from.
    """

    images: int = 256
    measure: bool = False


@dataclass(frozen=True)
class ScheduleConfig:
    """The `schedule` group."""

    float: TrainingPhase | None = None
    calibrate: CalibrationPhase | None = None
    qat: TrainingPhase | None = None
    frozen: TrainingPhase | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    ema_decay: Number | None = None

    def __post_init__(self) -> None:
        for key in ("float", "qat", "frozen"):
            if (phase := getattr(self, key)) is not None:
                phase.check(f"schedule.{key}")
        if self.calibrate is None and (self.qat or self.frozen):
            raise IntVitError("schedule.calibrate=null: integer phases (qat, frozen) need a calibration before them")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise IntVitError(f"schedule.ema_decay={self.ema_decay}: expected above 0, below 1; null for none")
        if self.calibrate is not None and self.calibrate.images < 1:
            raise IntVitError(f"schedule.calibrate.images={self.calibrate.images}: expected at least 1")
