"""The engine: counts of every executor, mismatches as integers."""

from typing import Any

import numpy as np
import pytest

from intvit.errors import IntVitError
from intvit.evaluation.engine import Tally, tally
from intvit.tasks.classification import CLASSIFICATION
from intvit.tasks.classification.accuracy import Accuracy

TASK: Any = {"task": CLASSIFICATION, "classes": 2}


def test_counts_add_up_over_batches() -> None:
    result = Tally(Accuracy())
    for _ in range(2):
        scores = np.array([[3, 3, 1], [3, 3, 1], [1, 2, 2]], dtype=np.int32)
        result.add(scores, np.array([0, 1, 1]), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.int32))
    assert result.images == 6
    expected = {"top1": 100 * 4 / 6, "top5": 100.0, "agreement": 100 * 2 / 6}
    assert result.metric.percentages() == expected


def batches(count: int, size: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        (generator.integers(0, 256, (size, 3, 2, 2), dtype=np.uint8), np.zeros(size, dtype=np.int64))
        for _ in range(count)
    ]


def test_equal_best_class_with_another_score_is_a_mismatch() -> None:
    def reference(images: np.ndarray) -> np.ndarray:
        return np.array([[9, 0]] * len(images), dtype=np.int32)

    def nearly(images: np.ndarray) -> np.ndarray:
        scores = reference(images)
        scores[2] += 1
        return scores

    result = tally(batches(3), {"a": reference, "b": nearly}, reference="a", compared=["b"], **TASK)
    assert result["b"].mismatches == 3
    assert result["b"].metric.percentages() == result["a"].metric.percentages()
    assert result["b"].first_mismatch is not None
    assert result["b"].first_mismatch[0] == 2


def test_an_executor_cannot_change_the_images_of_the_next() -> None:
    def destroys(images: np.ndarray) -> np.ndarray:
        images[:] = 0
        return np.zeros((len(images), 2), dtype=np.int32)

    def total(images: np.ndarray) -> np.ndarray:
        return np.stack([images.sum((1, 2, 3)), np.zeros(len(images))], 1).astype(np.int32)

    result = tally(batches(1), {"destroys": destroys, "total": total}, reference="total", compared=["destroys"], **TASK)
    assert result["destroys"].mismatches == 4


def test_floating_scores_are_never_compared() -> None:
    def scores(images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 2), dtype=np.float32)

    with pytest.raises(TypeError, match="integers are compared with integers only"):
        tally(batches(1), {"a": scores, "b": scores}, reference="a", compared=["b"], **TASK)


def test_labels_of_other_classes_and_empty_sets_are_errors() -> None:
    def scores(images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 2), dtype=np.int32)

    images, _ = batches(1)[0]
    with pytest.raises(IntVitError, match="label 5 in the data, but the model has 2 classes"):
        tally([(images, np.full(4, 5))], {"a": scores}, reference="a", compared=[], **TASK)
    with pytest.raises(IntVitError, match="holds no image"):
        tally([], {"a": scores}, reference="a", compared=[], **TASK)
