"""Training on one label for each image: batch changes on uint8 images (mixup, cutmix, erasing) and the loss.

The model's input is uint8, so blends and erasing are computed on reals and rounded back to pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.errors import IntVitError
from intvit.tasks.loss import LossConfig, TrainingLoss


class ClassificationLoss(TrainingLoss):
    """Cross entropy of one label, or of mixed ones, for each image."""

    def __init__(self, config: LossConfig, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(config, num_classes)
        self.mean, self.std = (torch.tensor(value).view(-1, 1, 1) * 255.0 for value in (mean, std))
        self._mix = _mixing(config, num_classes)
        self._erase = _erasing(config)

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

    def task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of logits (B, classes) and labels (B,) or probabilities (B, classes)."""
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
