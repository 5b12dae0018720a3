"""Runs every executor over the same images: accuracy, speed, and images whose scores differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from intvit.errors import IntVitError
from intvit.training.accuracy import count

Executor = Callable[[np.ndarray], np.ndarray]


@dataclass
class Tally:
    """What one executor did: counts over `images`, and its own seconds.

    mismatches: images whose scores differ from the reference's in any class; first_mismatch: one of them, uint8
    (C, H, W), with its index in the data set.
    """

    images: int = 0
    top1: int = 0
    top5: int = 0
    agreeing: int = 0
    mismatches: int = 0
    seconds: float = 0.0
    first_mismatch: tuple[int, np.ndarray] | None = field(default=None, repr=False)

    def percent(self, count: int) -> float:
        """`count` of the images in percent."""
        return 100.0 * count / max(self.images, 1)

    def images_per_second(self) -> float:
        """Images per second of this executor alone."""
        return self.images / max(self.seconds, 1e-9)

    def add(self, scores: np.ndarray, labels: np.ndarray, teacher_scores: np.ndarray | None = None) -> None:
        """Count one batch, as `intvit.training.accuracy.count` does: scores (B, classes), labels (B,)."""
        teacher = None if teacher_scores is None else torch.tensor(teacher_scores)
        top1, top5, agreeing, images = count(torch.tensor(scores), torch.tensor(labels), teacher).tolist()
        self.top1 += top1
        self.top5 += top5
        self.agreeing += agreeing
        self.images += images


def tally(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    executors: dict[str, Executor],
    *,
    reference: str,
    compared: Iterable[str],
    agreement_with: str | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, Tally]:
    """Execute every batch with every executor, each by itself, and compare scores with those of `reference`.

    batches: images uint8 (B, C, H, W) and labels (B,). executors: name -> images to scores (B, classes); each gets a
    copy of the images. compared: the executors whose scores must equal the reference's as integers. agreement_with:
    an executor whose best class every executor is compared with. Raises IntVitError for a label outside the classes.
    """
    tallies = {name: Tally() for name in executors}
    compared = set(compared)
    for images, labels in batches:
        first = tallies[reference].images
        scores = {}
        for name, execute in executors.items():
            began = time.perf_counter()
            scores[name] = execute(images.copy())
            tallies[name].seconds += time.perf_counter() - began
        _check_labels(labels, scores[reference].shape[1])
        for name, own in scores.items():
            tallies[name].add(own, labels, None if agreement_with is None else scores[agreement_with])
            if name in compared:
                _compare(tallies[name], own, scores[reference], images, first)
        progress(len(images))
    if not tallies[reference].images:
        raise IntVitError("the validation set holds no image; check data.root")
    return tallies


def _compare(result: Tally, scores: np.ndarray, expected: np.ndarray, images: np.ndarray, first: int) -> None:
    if scores.dtype.kind != "i" or expected.dtype.kind != "i":
        raise TypeError(f"scores are {scores.dtype} and {expected.dtype}: integers are compared with integers only")
    differing = np.flatnonzero((scores != expected).any(1))
    result.mismatches += len(differing)
    if len(differing) and result.first_mismatch is None:
        result.first_mismatch = (first + int(differing[0]), images[differing[0]])


def _check_labels(labels: np.ndarray, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise IntVitError(
            f"label {int(outside.max())} in the data, but the model has {classes} classes; choose the data set it was "
            "trained for with data=NAME data.root=DIR"
        )
