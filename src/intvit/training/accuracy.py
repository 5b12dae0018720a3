"""Top-1, top-5 and agreement with a teacher, counted exactly and summed over the ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Accuracy:
    """Counts over batches of logits or integer scores."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # right at first, right among five, agreeing with the teacher, images, 1 with a teacher
        self._counts = torch.zeros(5, dtype=torch.int64, device=device)

    def add(self, scores: Tensor, labels: Tensor, teacher_scores: Tensor | None = None) -> None:
        """scores (B, classes) of any type, labels (B,), teacher scores (B, classes)."""
        own = scores.gather(1, labels[:, None])
        earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
        # Classes ahead of the right one; among equal scores the lower index is ahead, as for argmax.
        ahead = ((scores > own) | ((scores == own) & earlier)).sum(1)
        self._counts[0] += (ahead < 1).sum()
        self._counts[1] += (ahead < 5).sum()
        if teacher_scores is not None:
            self._counts[2] += (scores.argmax(1) == teacher_scores.argmax(1)).sum()
            self._counts[4] = 1
        self._counts[3] += len(labels)

    def percentages(self, gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """`top1`, `top5`, and `agreement` where there was a teacher, in percent of all images.

        gather: stacks a tensor over the ranks (Lightning's all_gather). A rank without images still calls it.
        """
        counts = self._counts if gather is None else gather(self._counts).view(-1, 5).sum(0)
        top1, top5, agreement, images, has_teacher = counts.tolist()
        percent = {"top1": 100.0 * top1 / max(images, 1), "top5": 100.0 * top5 / max(images, 1)}
        if has_teacher:
            percent["agreement"] = 100.0 * agreement / max(images, 1)
        return percent
