"""Mean intersection over union and pixel accuracy, from one confusion matrix in integers.

A prediction is enlarged to the size of its mask by nearest neighbour; pixels without a label count nowhere. Not
torchmetrics (1.9): it counts masks of one size alone, and its mean takes in classes that neither side has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from intvit.data.masks import VOID, MaskTarget
from intvit.tasks.confusion import count_pairs


def predicted(scores: Tensor) -> Tensor:
    """Classes (B, H, W) of dense scores (B, classes, H, W), the lowest among equal ones; classes stay as they are."""
    return scores.argmax(1) if scores.ndim == 4 else scores


def answers(scores: Tensor, labels: Sequence[MaskTarget]) -> tuple[Tensor, Tensor]:
    """Classes given and right ones, int64 (N,), of all pixels of a batch that have a label, at the masks' own sizes."""
    given, right = [], []
    for prediction, target in zip(predicted(scores), labels, strict=True):
        counted = target.labels != VOID
        given.append(prediction[target.rows][:, target.columns][counted])
        right.append(target.labels[counted])
    return torch.cat(given).long(), torch.cat(right).long()


class MeanIou:
    """Counts over batches, summed over the ranks: of labels (rows) by the class that was given (columns).

    broken: images with a score that is not finite, known once the percentages are.
    """

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        # Pixels that agree with the teacher, pixels compared with it, broken images.
        self._others = torch.zeros(3, dtype=torch.int64, device=device)
        self.broken = 0

    def add(self, scores: Tensor, labels: Sequence[MaskTarget], teacher_scores: Tensor | None = None) -> None:
        """One batch: dense scores (B, classes, H, W) of any type, or classes (B, H, W) as programs give them."""
        self.counts += count_pairs(*answers(scores, labels), len(self.counts))
        if teacher_scores is not None:
            agreeing = predicted(scores) == predicted(teacher_scores)
            self._others[0] += agreeing.sum()
            self._others[1] += agreeing.numel()
        if scores.is_floating_point():
            self._others[2] += (~scores.isfinite().flatten(1).all(1)).sum()

    def percentages(self, gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """`miou` over the classes that occur, `pixel_accuracy`, and `agreement` of all pixels with a teacher's.

        gather: stacks a tensor over the ranks. A rank without images still calls it.
        """
        both = torch.cat((self.counts.flatten(), self._others))
        if gather is not None:
            both = gather(both).view(-1, len(both)).sum(0)
        self.counts, others = both[:-3].view_as(self.counts), both[-3:]
        agreeing, compared, self.broken = others.tolist()
        occurring = [each["iou"] for each in self.classes() if each["pixels"] or each["given"]]
        right, pixels = int(self.counts.trace()), int(self.counts.sum())
        percent = {"miou": sum(occurring) / max(len(occurring), 1), "pixel_accuracy": 100.0 * right / max(pixels, 1)}
        if compared:
            percent["agreement"] = 100.0 * agreeing / compared
        return percent

    def classes(self) -> list[Mapping[str, float]]:
        """Of every class: `iou` and `accuracy` (of its pixels) in percent, its `pixels`, and how many were `given`."""
        rows: list[Mapping[str, float]] = []
        for right, of_class, given in zip(
            self.counts.diagonal().tolist(), self.counts.sum(1).tolist(), self.counts.sum(0).tolist(), strict=True
        ):
            union = of_class + given - right
            figures = {"iou": 100.0 * right / max(union, 1), "accuracy": 100.0 * right / max(of_class, 1)}
            rows.append({**figures, "pixels": of_class, "given": given})
        return rows
