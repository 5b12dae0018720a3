"""Counting of right answers: exact for every type of score, ties as in argmax, NaN never right."""

import numpy as np
import pytest
import torch

from intvit.tasks.classification.accuracy import Accuracy, count


def test_ties_go_to_the_lower_index_as_in_argmax() -> None:
    scores = torch.tensor([[3, 3, 1], [3, 3, 1], [1, 2, 2]], dtype=torch.int32)
    labels = torch.tensor([0, 1, 1])
    assert count(scores, labels).tolist() == [2, 3, 0, 3]
    assert int((scores.argmax(1) == labels).sum()) == 2


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_counts_are_those_of_a_stable_sort_on_scores_full_of_ties(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (200, 12), generator=generator).to(dtype)
    labels = torch.randint(0, 12, (200,), generator=generator)
    order = np.argsort(-scores.numpy(), axis=1, kind="stable")
    expected = [int((order[:, :k] == labels.numpy()[:, None]).any(1).sum()) for k in (1, 5)]
    assert count(scores, labels).tolist() == [*expected, 0, 200]


@pytest.mark.parametrize(("dtype", "large"), [(torch.int32, 2**24), (torch.int64, 2**53), (torch.int64, 2**62)])
def test_large_integers_are_compared_as_integers(dtype: torch.dtype, large: int) -> None:
    scores = torch.tensor([[large, large + 1]], dtype=dtype)
    assert count(scores, torch.tensor([1]))[0] == 1
    assert count(scores, torch.tensor([0]))[0] == 0


def test_nan_is_never_right_and_agrees_with_nothing() -> None:
    labels = torch.arange(4)
    scores = torch.full((4, 4), torch.nan)
    assert count(scores, labels, scores).tolist() == [0, 0, 0, 4]
    one = torch.eye(4)
    assert count(one, labels, one).tolist() == [4, 4, 4, 4]
    one[0, 3] = torch.nan  # not the right class: what comes out is no answer all the same
    assert count(one, labels, torch.eye(4)).tolist() == [3, 3, 3, 4]
    assert count(torch.eye(4), labels, one).tolist() == [4, 4, 3, 4]


def test_infinities_are_scores() -> None:
    scores = torch.tensor([[torch.inf, 0.0, -torch.inf]] * 3)
    assert count(scores, torch.arange(3)).tolist() == [1, 3, 0, 3]


def test_the_accuracy_of_nan_scores_is_zero() -> None:
    accuracy = Accuracy()
    accuracy.add(torch.full((3, 10), torch.nan), torch.arange(3), torch.zeros(3, 10))
    assert accuracy.percentages() == {"top1": 0.0, "top5": 0.0, "agreement": 0.0}
