"""Segmentation as a task: one exact confusion matrix, a loss of the pixels that have a label, heads of every kind."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from intvit.config.values import build
from intvit.data.masks import VOID, MaskTarget
from intvit.errors import IntVitError
from intvit.tasks import task_named
from intvit.tasks.loss import LossConfig
from intvit.tasks.segmentation import SEGMENTATION
from intvit.tasks.segmentation.iou import MeanIou
from intvit.tasks.segmentation.loss import SegmentationLoss
from tests.support.tiny_runs import composed

CLASSES, GRID = 4, (6, 8)


def drawn(count: int, seed: int = 0) -> tuple[torch.Tensor, list[MaskTarget]]:
    """Integer scores full of ties, and masks of several sizes."""
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.integers(-2, 3, (count, CLASSES, *GRID)))
    targets = []
    for _ in range(count):
        size = random.integers(3, 12, 2)
        labels = torch.from_numpy(random.integers(VOID, CLASSES, size).astype(np.int16))
        rows, columns = (torch.from_numpy(random.integers(0, side, n)) for side, n in zip(GRID, size, strict=True))
        targets.append(MaskTarget(labels, rows, columns))
    return scores, targets


def test_counts_are_those_of_a_loop_over_pixels() -> None:
    scores, targets = drawn(5)
    metric = MeanIou(CLASSES)
    metric.add(scores[:2], targets[:2])
    metric.add(scores[2:], targets[2:])
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for own, target in zip(scores.numpy(), targets, strict=True):
        for y, row in enumerate(target.rows.tolist()):
            for x, column in enumerate(target.columns.tolist()):
                if (label := int(target.labels[y, x])) != VOID:
                    expected[label, own[:, row, column].argmax()] += 1  # numpy's is the lowest of equals
    assert metric.counts.tolist() == expected.tolist()
    ious = [expected[k, k] / (expected[k].sum() + expected[:, k].sum() - expected[k, k]) for k in range(CLASSES)]
    figures = metric.percentages()
    assert figures["miou"] == pytest.approx(100 * np.mean(ious), abs=1e-12)
    assert figures["pixel_accuracy"] == pytest.approx(100 * expected.trace() / expected.sum(), abs=1e-12)
    assert [each["iou"] for each in metric.classes()] == pytest.approx([100 * iou for iou in ious], abs=1e-12)


def test_labels_of_a_program_count_as_the_scores_behind_them() -> None:
    scores, targets = drawn(3)
    one, other = MeanIou(CLASSES), MeanIou(CLASSES)
    one.add(scores, targets, scores)
    other.add(scores.argmax(1).to(torch.int32), targets, scores)
    assert one.percentages() == other.percentages()
    assert one.percentages()["agreement"] == 100.0


def test_ranks_together_measure_what_one_would() -> None:
    scores, targets = drawn(6)
    whole, halves = MeanIou(CLASSES), [MeanIou(CLASSES), MeanIou(CLASSES), MeanIou(CLASSES)]
    whole.add(scores, targets, scores.roll(1, 1))
    for metric, part in zip(halves, (slice(0, 2), slice(2, 6)), strict=False):  # the third has no image
        metric.add(scores[part], targets[part], scores.roll(1, 1)[part])
    rows = torch.stack([torch.cat((each.counts.flatten(), each._others)) for each in halves])
    figures = halves[2].percentages(lambda counts: rows)
    assert figures == whole.percentages()
    assert halves[2].classes() == whole.classes()


def test_a_class_that_nobody_has_is_in_no_mean_and_nan_is_seen() -> None:
    scores = torch.zeros(1, CLASSES, *GRID)
    scores[:, 1] = 1.0
    labels = torch.ones(GRID, dtype=torch.int16)
    target = MaskTarget(labels, torch.arange(GRID[0]), torch.arange(GRID[1]))
    metric = MeanIou(CLASSES)
    metric.add(scores, [target])
    assert metric.percentages() == {"miou": 100.0, "pixel_accuracy": 100.0}
    metric.add(scores / 0.0, [target])
    metric.percentages()
    assert metric.broken == 1
    assert MeanIou(CLASSES).percentages() == {"miou": 0.0, "pixel_accuracy": 0.0}


def loss(**options: Any) -> SegmentationLoss:
    values = composed()["schedule"]["loss"] | {"label_smoothing": 0.0} | options
    return SegmentationLoss(build(LossConfig, values, "loss"), CLASSES)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_and_its_gradient_are_those_of_all_counted_pixels_at_once(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, CLASSES, *GRID, requires_grad=True)
    masks = torch.randint(VOID, CLASSES, (3, *GRID)).to(torch.int16)
    value = loss(label_smoothing=smoothing).loss(logits, masks, None)
    expected = F.cross_entropy(logits, masks.long(), ignore_index=VOID, label_smoothing=smoothing)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    (one,), (other,) = (torch.autograd.grad(each, logits) for each in (value, expected))
    torch.testing.assert_close(one, other)
    nothing = loss().loss(logits, torch.full_like(masks, VOID), None)
    assert float(nothing.detach()) == 0.0


def test_distillation_is_the_mean_divergence_of_the_pixels() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 2, CLASSES, *GRID)
    masks = torch.zeros(2, *GRID, dtype=torch.int16)
    value = loss(distillation={"alpha": 1.0, "temperature": 2.0, "features": 0.0, "weights": None})
    pixels = (each.permute(0, 2, 3, 1).reshape(-1, CLASSES) / 2 for each in (logits, teacher))
    own, aim = (F.log_softmax(each, -1) for each in pixels)
    expected = 4 * F.kl_div(own, aim, reduction="batchmean", log_target=True)
    assert float(value.loss(logits, masks, teacher)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("key", ["mixup", "cutmix", "erasing"])
def test_what_mixes_labels_of_images_is_refused(key: str) -> None:
    with pytest.raises(IntVitError, match=rf"schedule.loss.{key}=0.5: for images of one label each"):
        loss(**{key: 0.5})


def test_a_task_of_another_name_is_refused_by_its_name() -> None:
    assert task_named("segmentation") is SEGMENTATION
    with pytest.raises(
        IntVitError, match=r"task\.name=detection: unknown, expected one of classification, segmentation"
    ):
        task_named("detection")
