"""Top-1, top-5 and agreement with a teacher: counted exactly in one place, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def count(scores: Tensor, labels: Tensor, teacher_scores: Tensor | None = None) -> Tensor:
    """[right at first, right among five, agreeing with the teacher, images]: int64 (4,) on the scores' device.

    scores (B, classes) of any type, labels (B,) in 0..classes-1, teacher scores (B, classes); without a teacher none
    agrees. Among equal scores the lower index is ahead, as for argmax. An image with NaN among its scores is wrong,
    and agrees with nothing.

    Not torchmetrics (1.9): it refuses integer scores, and in float32 the scores 2^24 and 2^24 + 1 are equal; its top-5
    leaves the order of equal scores to torch.topk (of ten equal ones it takes the last five); and where all scores are
    NaN, class 0 counts as right.
    """
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ahead = ((scores > own) | ((scores == own) & earlier)).sum(1)
    valid = ~scores.isnan().any(1)
    agreeing = torch.zeros_like(valid)
    if teacher_scores is not None:
        agreeing = valid & ~teacher_scores.isnan().any(1) & (scores.argmax(1) == teacher_scores.argmax(1))
    right = torch.stack((valid & (ahead < 1), valid & (ahead < 5), agreeing, torch.ones_like(valid)))
    return right.sum(1)


class Accuracy:
    """Counts over batches, summed over the ranks.

    broken: images with a score that is not finite, known once the percentages are.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # Those of `count`, 1 with a teacher, and broken images.
        self._counts = torch.zeros(6, dtype=torch.int64, device=device)
        self.broken = 0

    def add(self, scores: Tensor, labels: Tensor, teacher_scores: Tensor | None = None) -> None:
        """Count one batch, as `count` does."""
        self._counts[:4] += count(scores, labels, teacher_scores)
        self._counts[5] += (~scores.isfinite().all(1)).sum()
        if teacher_scores is not None:
            self._counts[4] = 1

    def percentages(self, gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """`top1`, `top5`, and `agreement` where there was a teacher, in percent of all images.

        gather: stacks a tensor over the ranks (Lightning's all_gather). A rank without images still calls it.
        """
        counts = self._counts if gather is None else gather(self._counts).view(-1, 6).sum(0)
        top1, top5, agreement, images, has_teacher, self.broken = counts.tolist()
        percent = {"top1": 100.0 * top1 / max(images, 1), "top5": 100.0 * top5 / max(images, 1)}
        if has_teacher:
            percent["agreement"] = 100.0 * agreement / max(images, 1)
        return percent

    def classes(self) -> tuple[()]:
        """Nothing of single classes is kept."""
        return ()
