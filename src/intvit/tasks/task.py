"""What every task says of itself: `Task`, and what it makes, a loss for training and a metric for what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from intvit.tasks.loss import LossConfig, TrainingLoss

Gather = Callable[[Tensor], Tensor]  # stacks a tensor over the ranks


class Metric(Protocol):
    """Counts over batches, summed over the ranks.

    broken: images with a score that is not finite, known once the figures are.
    """

    broken: int

    def add(self, scores: Tensor, labels: Any, teacher_scores: Tensor | None = None) -> None:
        """Count one batch: what a model or a runtime gives, the labels as the data gives them."""

    def percentages(self, gather: Gather | None = None) -> dict[str, float]:
        """Figures in percent, `agreement` with the teacher's answers among them where there was a teacher."""

    def classes(self) -> Sequence[Mapping[str, float]]:
        """Figures of every class, once `percentages` are known; empty where a task has none."""


class Task(Protocol):
    """A task.

    name: of `task=NAME`. labels: data.labels that it needs. figures: what a metric gives, with a title for people; the
    first is what `auto` watches. differences: what evaluation counts where integers differ, in words. compares_float:
    evaluation shows how often answers are the float model's. dense: the model's output is an answer for every pixel.
    """

    name: str
    labels: str
    figures: Mapping[str, str]
    differences: str
    compares_float: bool
    dense: bool

    def loss(self, config: LossConfig, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> TrainingLoss:
        """What a training step changes and minimizes. Raises IntVitError for an option that the task does not have."""

    def metric(self, classes: int, device: torch.device | str = "cpu") -> Metric:
        """A new one, of so many classes."""

    def check(self, labels: Any, classes: int) -> None:
        """Raise IntVitError where a batch has a label that the model does not know."""

    def answers(self, scores: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
        """Classes given and right ones, int64 (N,) each, of a batch: what a confusion matrix counts."""

    def differing(self, output: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """How many of `differences` each image has between two integer outputs, int64 (B,)."""
