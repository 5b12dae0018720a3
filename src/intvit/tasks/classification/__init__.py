"""Classification: one class for a photo. The program's output is an int32 score for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intvit.errors import IntVitError
from intvit.tasks.classification.accuracy import Accuracy
from intvit.tasks.classification.loss import ClassificationLoss
from intvit.tasks.loss import LossConfig


class Classification:
    """See `intvit.tasks.task.Task`."""

    name = "classification"
    labels = "classes"
    figures: Mapping[str, str] = {"top1": "top-1", "top5": "top-5"}
    differences = "images"
    compares_float = False
    dense = False

    def loss(
        self, config: LossConfig, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> ClassificationLoss:
        return ClassificationLoss(config, classes, mean, std)

    def metric(self, classes: int, device: torch.device | str = "cpu") -> Accuracy:
        return Accuracy(device)

    def check(self, labels: Any, classes: int) -> None:
        outside = labels[(labels < 0) | (labels >= classes)]
        if len(outside):
            raise IntVitError(
                f"label {int(outside.max())} in the data, but the model has {classes} classes; choose the data set it "
                "was trained for with data=NAME data.root=DIR"
            )

    def answers(self, scores: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
        return scores.argmax(1), labels

    def differing(self, output: np.ndarray, expected: np.ndarray) -> np.ndarray:
        return (output != expected).any(1).astype(np.int64)


CLASSIFICATION = Classification()
