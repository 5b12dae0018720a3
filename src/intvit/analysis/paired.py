"""Paired comparison of presets on the same images: exact tests on the images where two of them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def binomial_p(wins: int, losses: int) -> float:
    """Two-sided exact probability of so uneven a split of fair coins: McNemar's exact test, and the sign test."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)


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


def print_paired(rows: Sequence[Mapping[str, Any]], against: str, sets: Sequence[str]) -> None:
    """For every set a line for each row: how much better `against` is, with standard errors and p.

    rows: presets of `intvit bench presets`.
    """
    base = next(row for row in rows if row["preset"] == against)
    for name in sets:
        print(f"\n{against} minus another preset on {name}; p of McNemar's exact test, and of the sign test")
        print(f"{'preset':<32}{'top-1':>16}{'p':>9}{'agreement':>16}{'p':>9}{'divergence':>20}{'p':>9}")
        for row in rows:
            if row is base:
                continue
            cells = []
            for key, width, form in (("top1", 16, "+.2f"), ("agreement", 16, "+.2f"), ("divergence", 20, "+.4f")):
                mean, error, p = paired(base["sets"][name], row["sets"][name], key)
                cells.append(f"{f'{mean:{form}} ± {error:{form[1:]}}':>{width}}{p:>9.2g}")
            print(f"{row['preset']:<32}{''.join(cells)}")
