"""Training on masks: cross entropy of every pixel that has a label, one image after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from intvit.data.masks import VOID
from intvit.errors import IntVitError
from intvit.tasks.loss import LossConfig, TrainingLoss


class SegmentationLoss(TrainingLoss):
    """The mean over the pixels of a batch that have a label."""

    def __init__(self, config: LossConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        for key in ("mixup", "cutmix", "erasing"):
            if value := getattr(config, key):
                raise IntVitError(
                    f"schedule.loss.{key}={value:g}: for images of one label each, task=segmentation has none: say 0"
                )

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, 3, H, W) and masks int16 (B, H, W), as they are."""
        return images, labels

    def task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of logits (B, classes, H, W) and masks (B, H, W); 0 where no pixel has a label."""
        counted = (targets != VOID).sum().clamp(min=1)
        return _over_images(self._entropy, logits, targets) / counted

    def divergence(self, logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Mean over all pixels."""

        def of_image(own: Tensor, teacher: Tensor) -> Tensor:
            own, teacher = (F.log_softmax(each.float() / temperature, 0) for each in (own, teacher))
            return F.kl_div(own, teacher, reduction="sum", log_target=True)

        return _over_images(of_image, logits, teacher_logits) / (logits.numel() // logits.shape[1])

    def _entropy(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum over one image: logits (classes, H, W), mask (H, W)."""
        smoothing = self.config.label_smoothing
        target = mask[None].long()
        return F.cross_entropy(
            logits[None].float(), target, ignore_index=VOID, reduction="sum", label_smoothing=smoothing
        )


def _over_images(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, others: Tensor) -> Tensor:
    """Sum of a function of every image of a batch, whose intermediate values are computed again for the gradient.

    Probabilities of 16 images of 512 x 512 pixels in 150 classes would take 2.5 GB beside the logits' own.
    """
    parts = [
        checkpoint(function, one, other, use_reentrant=False, preserve_rng_state=False)
        for one, other in zip(logits, others, strict=True)
    ]
    return torch.stack(parts).sum()
