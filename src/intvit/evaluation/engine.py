"""Runs every executor over the same images: what the task counts, speed, and where integers differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from intvit.errors import IntVitError
from intvit.tasks import Task
from intvit.tasks.task import Metric

Executor = Callable[[np.ndarray], np.ndarray]
Batches = Iterable[tuple[np.ndarray, Any]]  # images uint8 (B, C, H, W) and the labels of the task


@dataclass
class Tally:
    """What one executor did: the task's counts over `images`, and its own seconds.

    mismatches: images, or pixels, whose integers differ from the reference's; score_mismatches: dense scores that do,
    None where they are not looked at; first_mismatch: an image that differs, uint8 (C, H, W), with its index in the
    data set.
    """

    metric: Metric
    images: int = 0
    mismatches: int = 0
    score_mismatches: int | None = None
    seconds: float = 0.0
    first_mismatch: tuple[int, np.ndarray] | None = field(default=None, repr=False)

    def images_per_second(self) -> float:
        """Images per second of this executor alone."""
        return self.images / max(self.seconds, 1e-9)

    def add(self, output: np.ndarray, labels: Any, agrees_with: np.ndarray | None = None) -> None:
        """Count one batch, as the task's metric does."""
        teacher = None if agrees_with is None else torch.tensor(agrees_with)
        targets = torch.tensor(labels) if isinstance(labels, np.ndarray) else labels
        self.metric.add(torch.tensor(output), targets, teacher)
        self.images += len(output)


def tally(
    batches: Batches,
    executors: dict[str, Executor],
    *,
    task: Task,
    classes: int,
    reference: str,
    compared: Iterable[str],
    agreement_with: str | None = None,
    dense: Mapping[str, Executor] | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Tally]:
    """Execute every batch with every executor, each by itself, and compare outputs with those of `reference`.

    executors: name -> images to scores (B, classes), or of a dense task to scores (B, classes, H, W) or labels
    (B, H, W); each gets a copy of the images. compared: the executors whose output must equal the reference's as
    integers. agreement_with: an executor whose answers every executor is compared with. dense: for the reference and
    all that are compared, images to the int32 scores (B, classes, H, W) behind their labels, which must be equal, too.
    Raises IntVitError for a label outside the classes.
    """
    tallies = {name: Tally(task.metric(classes)) for name in executors}
    compared = set(compared)
    for images, labels in batches:
        first = tallies[reference].images
        scores = {}
        for name, execute in executors.items():
            began = time.perf_counter()
            scores[name] = execute(images.copy())
            tallies[name].seconds += time.perf_counter() - began
        task.check(labels, classes)
        for name, own in scores.items():
            tallies[name].add(own, labels, None if agreement_with is None else scores[agreement_with])
            if name in compared:
                _compare(task, tallies[name], own, scores[reference], images, first)
        if dense is not None:
            expected = dense[reference](images.copy())
            for name in compared:
                differing = int((dense[name](images.copy()) != expected).sum())
                tallies[name].score_mismatches = (tallies[name].score_mismatches or 0) + differing
        progress(len(images))
    if not tallies[reference].images:
        raise IntVitError("the validation set holds no image; check data.root")
    return tallies


def _compare(
    task: Task, result: Tally, output: np.ndarray, expected: np.ndarray, images: np.ndarray, first: int
) -> None:
    if output.dtype.kind != "i" or expected.dtype.kind != "i":
        raise TypeError(f"outputs are {output.dtype} and {expected.dtype}: integers are compared with integers only")
    differing = task.differing(output, expected)
    result.mismatches += int(differing.sum())
    found = np.flatnonzero(differing)
    if len(found) and result.first_mismatch is None:
        result.first_mismatch = (first + int(found[0]), images[found[0]])
