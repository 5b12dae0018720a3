"""Losses: their typed config, and what the tasks share of them, distillation from a float teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from intvit.config.values import NotNegative, Share, TypedConfig


@dataclass(frozen=True)
class DistillationConfig(TypedConfig):
    """Loss against a float teacher: alpha * (KL(teacher, student at `temperature`) + features * E) + (1 - alpha) * task
    loss, where E is the relative squared error of the outputs of every LayerNorm.

    alpha: 0 is no distillation; features: 0 compares the scores alone.
    weights: file with weights for a teacher of the model's own architecture; null: the model's own float copy from
    the moment of calibration, which teaches the integer phases.
    """

    alpha: Share
    temperature: Annotated[float, Field(gt=0)]
    features: NotNegative
    weights: str | None


@dataclass(frozen=True)
class LossConfig(TypedConfig):
    """Label smoothing, batch mixing (Beta parameters, 0 is off), probability of erasing, distillation."""

    label_smoothing: Share
    mixup: NotNegative
    cutmix: NotNegative
    erasing: Share
    distillation: DistillationConfig


class TrainingLoss:
    """What a training step does besides the student's forward: `change` the batch, then take the `loss`.

    A task derives from it: `change`, and `task_loss` of logits (B, classes, ...) and targets.
    """

    def __init__(self, config: LossConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes

    @property
    def uses_features(self) -> bool:
        """Whether the teacher is compared inside as well."""
        return self.config.distillation.alpha > 0.0 and self.config.distillation.features > 0.0

    @property
    def uses_labels(self) -> bool:
        """False when the teacher alone teaches."""
        return self.config.distillation.alpha < 1.0

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images that the model sees, uint8 (B, 3, H, W), and the targets. Raises IntVitError for bad labels."""
        raise NotImplementedError

    def task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss without a teacher."""
        raise NotImplementedError

    def divergence(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Mean KL divergence of an image's, or a pixel's, class probabilities from the teacher's at a temperature."""
        return F.kl_div(
            F.log_softmax(logits / temperature, -1),
            F.log_softmax(teacher_logits / temperature, -1),
            reduction="batchmean",
            log_target=True,
        )

    def loss(
        self, logits: Tensor, targets: Tensor, teacher_logits: Tensor | None, feature_error: Tensor | None = None
    ) -> Tensor:
        """Scalar loss of logits (B, classes, ...); without teacher logits the task loss alone."""
        alpha, temperature = self.config.distillation.alpha, self.config.distillation.temperature
        if teacher_logits is None or alpha == 0.0:
            return self.task_loss(logits, targets)
        # The square keeps the gradient's size independent of the temperature (Hinton et al., arXiv 1503.02531).
        divergence = temperature**2 * self.divergence(logits, teacher_logits, temperature)
        if feature_error is not None:
            divergence = divergence + self.config.distillation.features * feature_error
        return divergence if alpha == 1.0 else alpha * divergence + (1.0 - alpha) * self.task_loss(logits, targets)
