"""The training task: batch changes on uint8 images (mixup, cutmix, erasing) and the loss, with distillation.

The model's input is uint8, so blends and erasing are computed on reals and rounded back to pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from intvit.config.values import NotNegative, Share, TypedConfig
from intvit.errors import IntVitError


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


class TrainingTask:
    """What a training step does besides the student's forward: `change` the batch, then take the `loss`."""

    def __init__(self, config: LossConfig, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.config = config
        self.num_classes = num_classes
        self.mean, self.std = (torch.tensor(value).view(-1, 1, 1) * 255.0 for value in (mean, std))
        self._mix = _mixing(config, num_classes)
        self._erase = _erasing(config)

    @property
    def uses_features(self) -> bool:
        """Whether the teacher is compared inside as well."""
        return self.config.distillation.alpha > 0.0 and self.config.distillation.features > 0.0

    @property
    def uses_labels(self) -> bool:
        """False when the teacher alone teaches."""
        return self.config.distillation.alpha < 1.0

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed and erased images, uint8 (B, 3, H, W), and targets: labels (B,) or probabilities (B, classes).

        Raises IntVitError for a label outside the model's classes.
        """
        self._check(labels)
        targets = labels
        if self._mix is None and self._erase is None:
            return images, targets
        reals = images.float()
        if self._mix is not None:
            reals, targets = self._mix(reals, labels)
        if self._erase is not None:
            # Erasing draws normal noise, meant for normalized images.
            mean, std = self.mean.to(images.device), self.std.to(images.device)
            reals = self._erase((reals - mean) / std) * std + mean
        return reals.round_().clamp_(0, 255).to(torch.uint8), targets

    def loss(
        self, logits: Tensor, targets: Tensor, teacher_logits: Tensor | None, feature_error: Tensor | None = None
    ) -> Tensor:
        """Scalar loss of logits (B, classes); without teacher logits the task loss alone."""
        alpha, temperature = self.config.distillation.alpha, self.config.distillation.temperature
        if teacher_logits is None or alpha == 0.0:
            return self._task_loss(logits, targets)
        # The square keeps the gradient's size independent of the temperature (Hinton et al., arXiv 1503.02531).
        divergence = temperature**2 * F.kl_div(
            F.log_softmax(logits / temperature, -1),
            F.log_softmax(teacher_logits / temperature, -1),
            reduction="batchmean",
            log_target=True,
        )
        if feature_error is not None:
            divergence = divergence + self.config.distillation.features * feature_error
        return divergence if alpha == 1.0 else alpha * divergence + (1.0 - alpha) * self._task_loss(logits, targets)

    def _task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        # Mixed targets are smoothed already.
        smoothing = self.config.label_smoothing if targets.ndim == 1 else 0.0
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def _check(self, labels: Tensor) -> None:
        if self.uses_labels and bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise IntVitError(
                f"label {int(labels.max())} in the training data, but data.num_classes={self.num_classes} "
                f"(labels 0 to {self.num_classes - 1})"
            )


def _mixing(config: LossConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    if config.mixup == 0.0 and config.cutmix == 0.0:
        return None
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    from timm.data.mixup import Mixup

    mixup: Any = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=num_classes)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) % 2:  # timm mixes pairs; the last image of an odd batch is its own partner
            images, labels = torch.cat((images, images[-1:])), torch.cat((labels, labels[-1:]))
            mixed, targets = mixup(images, labels)
            return mixed[:-1], targets[:-1]
        mixed, targets = mixup(images, labels)
        return mixed, targets

    return mix


def _erasing(config: LossConfig) -> Callable[[Tensor], Tensor] | None:
    if config.erasing == 0.0:
        return None
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    from timm.data.random_erasing import RandomErasing

    def erase(images: Tensor) -> Tensor:
        eraser: Any = RandomErasing(config.erasing, mode="pixel", device=images.device)
        erased: Tensor = eraser(images)
        return erased

    return erase
