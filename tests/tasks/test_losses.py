"""The training task: pixels stay uint8 after mixing and erasing; a teacher with alpha 1 needs no labels."""

from typing import Any

import numpy as np
import pytest
import torch

from intvit.config.values import build
from intvit.errors import IntVitError
from intvit.tasks.classification.loss import ClassificationLoss
from intvit.tasks.loss import LossConfig
from tests.support.tiny_runs import composed

CLASSES = 4
PRESET = composed("schedule=calibrate")["schedule"]["loss"]


def task(**options: Any) -> ClassificationLoss:
    values = {**PRESET, **options}
    values["distillation"] = {**PRESET["distillation"], **values["distillation"]}
    return ClassificationLoss(build(LossConfig, values, "loss"), CLASSES, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (size, 3, 12, 12), dtype=torch.uint8, generator=generator)
    return images, torch.arange(size) % CLASSES


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0, "erasing": 0.9}])
def test_changed_images_are_pixels_and_targets_are_probabilities(options: dict, size: int) -> None:
    np.random.seed(0)
    images, labels = batch(size)
    changed, targets = task(**options).change(images.clone(), labels)
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
    assert targets.shape == (size, CLASSES)
    assert torch.allclose(targets.sum(1), torch.ones(size))


def test_mixup_rounds_the_blend_to_the_nearest_pixel() -> None:
    images, labels = batch(6)
    np.random.seed(1)
    changed, targets = task(mixup=0.8).change(images.clone(), labels)
    share = targets[0, labels[0]]  # the first image's share; its partner has another label
    blend = images.float() * share + images.flip(0).float() * (1 - share)
    assert (changed.float() - blend).abs().max() <= 0.5 + 1e-3


def test_nothing_chosen_changes_nothing() -> None:
    images, labels = batch(4)
    changed, targets = task(label_smoothing=0.1).change(images, labels)
    assert changed is images
    assert targets is labels


def test_a_teacher_alone_ignores_labels() -> None:
    distilling = task(distillation={"alpha": 1.0})
    logits, teacher = torch.randn(3, CLASSES), torch.randn(3, CLASSES)
    losses = {float(distilling.loss(logits, torch.full((3,), label), teacher)) for label in range(CLASSES)}
    assert len(losses) == 1
    assert float(distilling.loss(teacher, torch.zeros(3, dtype=torch.int64), teacher)) == pytest.approx(0.0, abs=1e-6)
    distilling.change(*batch(4)[:1], torch.full((4,), 999))  # labels of another data set do not matter


def test_alpha_blends_both_losses() -> None:
    logits, teacher, labels = torch.randn(3, CLASSES), torch.randn(3, CLASSES), torch.tensor([0, 1, 2])
    teacher_alone = task(distillation={"alpha": 1.0, "temperature": 2.0}).loss(logits, labels, teacher)
    labels_alone = task().loss(logits, labels, None)
    both = task(distillation={"alpha": 0.25, "temperature": 2.0}).loss(logits, labels, teacher)
    assert float(both) == pytest.approx(0.25 * float(teacher_alone) + 0.75 * float(labels_alone), rel=1e-5)


def test_a_label_outside_the_classes_is_named() -> None:
    images, _ = batch(2)
    with pytest.raises(IntVitError, match=r"label 7 in the training data, but data.num_classes=4"):
        task().change(images, torch.tensor([0, 7]))


def test_the_feature_error_joins_the_teachers_share() -> None:
    distilling = task(distillation={"alpha": 0.5, "features": 3.0})
    logits, teacher, labels = torch.randn(3, CLASSES), torch.randn(3, CLASSES), torch.tensor([0, 1, 2])
    without = distilling.loss(logits, labels, teacher)
    assert float(distilling.loss(logits, labels, teacher, torch.tensor(0.25)) - without) == pytest.approx(0.375)
    with pytest.raises(IntVitError, match=r"features=-1.0: expected at least 0"):
        task(distillation={"features": -1.0})
