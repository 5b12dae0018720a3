"""The schedule: which phases training passes through, and the rates inside one.

The classifier alone, float training, calibration, quantization-aware training, frozen tail: in this order, each
optional. `timeline` lays them out over the steps of a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from intvit.config.values import Count, NotNegative, Share, TypedConfig
from intvit.errors import IntVitError
from intvit.tasks.loss import LossConfig

# Named here, because `float` is a field in the class that uses it.
Decay = Annotated[float, Field(gt=0, lt=1, description="null for none")]
LayerDecay = Annotated[float, Field(gt=0, le=1)]


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
    # Rate of a block: lr times this for every block between it and the classifier. Null: one rate for all.
    layer_decay: LayerDecay | None = None
    # Rate of biases, norms, tokens, positions and learned steps: that of the matrices times this. Null: the same.
    vector_lr_ratio: NotNegative | None = None

    def check(self, where: str) -> None:
        """Raise IntVitError naming the key that makes no sense."""
        if (self.epochs is None) == (self.steps is None):
            raise IntVitError(f"{where}: give either epochs or steps (epochs={self.epochs}, steps={self.steps})")
        if (self.epochs or self.steps or 0) < 1:
            raise IntVitError(f"{where}: a phase lasts at least 1 epoch or step; {where}=null leaves it out")

    def length(self, steps_per_epoch: int) -> int:
        """Optimizer steps."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def warmup_steps(self, length: int) -> int:
        """Of so many steps."""
        return round(self.warmup * length)

    def learning_rate(self, step: int, length: int) -> float:
        """Rate of the phase's optimizer step 0..length-1."""
        warmup = self.warmup_steps(length)
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

    head: TrainingPhase | None
    float: TrainingPhase | None
    calibrate: CalibrationPhase | None
    qat: TrainingPhase | None
    frozen: TrainingPhase | None
    loss: LossConfig
    limit_steps: Count | None  # at most so many steps of each phase
    ema_decay: Decay | None  # of an average of the weights, which is then what is validated and saved

    def __post_init__(self) -> None:
        for key in ("head", "float", "qat", "frozen"):
            if (phase := getattr(self, key)) is not None:
                phase.check(f"schedule.{key}")
        if self.calibrate is None and (self.qat or self.frozen):
            raise IntVitError("schedule.calibrate=null: integer phases (qat, frozen) need a calibration before them")
