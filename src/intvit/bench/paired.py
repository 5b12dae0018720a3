"""Paired comparison of presets on the same images: exact tests on the images where two of them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def binomial_p(wins: int, losses: int) -> float:
    """Two-sided exact probability of so uneven a split of fair coins: McNemar's exact test, and the sign test."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**count))


def paired(figures: Mapping[str, Any], other: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    """(mean difference figures - other, its standard error, p) over the same images.

    key: `top1` or `agreement` (0 or 1 an image, the difference in points, McNemar's exact test), or `divergence` (in
    bits, the sign test).
    """
    values, others = figures["images"][key], other["images"][key]
    factor = 1.0 if key == "divergence" else 100.0
    differences = [factor * (a - b) for a, b in zip(values, others, strict=True)]
    count, mean = len(differences), sum(differences) / len(differences)
    spread = sum((d - mean) ** 2 for d in differences) / max(1, count - 1)
    p = binomial_p(sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    return mean, math.sqrt(spread / count), p
