"""Semantic segmentation: one class for every pixel. The program's output is the labels of all pixels.

`loss` trains, `iou` counts; the masks are read by `intvit.data.masks`, drawn by `intvit.photos`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from intvit.data.masks import MaskTarget
from intvit.tasks.loss import LossConfig
from intvit.tasks.segmentation.iou import MeanIou, answers
from intvit.tasks.segmentation.loss import SegmentationLoss


class Segmentation:
    """See `intvit.tasks.task.Task`."""

    name = "segmentation"
    labels = "masks"
    figures: Mapping[str, str] = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}
    differences = "pixels"
    compares_float = True
    dense = True

    def loss(
        self, config: LossConfig, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> SegmentationLoss:
        return SegmentationLoss(config, classes)

    def metric(self, classes: int, device: torch.device | str = "cpu") -> MeanIou:
        return MeanIou(classes, device)

    def check(self, labels: Sequence[MaskTarget], classes: int) -> None:
        """Masks are checked where they are read."""

    def answers(self, scores: Tensor, labels: Sequence[MaskTarget]) -> tuple[Tensor, Tensor]:
        return answers(scores, labels)

    def differing(self, output: np.ndarray, expected: np.ndarray) -> np.ndarray:
        differs: np.ndarray = (output != expected).reshape(len(output), -1).sum(1, dtype=np.int64)
        return differs


SEGMENTATION = Segmentation()
