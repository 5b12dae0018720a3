"""What belongs to a number of tokens, for another number, as timm does: position embeddings, relative positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # rows and columns


def square(count: int) -> Grid | None:
    """The grid of so many tokens, if it is square."""
    side = math.isqrt(max(0, count))
    return (side, side) if 0 < count == side * side else None


def resample_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Position embeddings float (1, P + old tokens, C) -> float32 (1, P + new tokens, C).

    The first P, of class token and the like, stay as they are; the others are an image of C channels, which becomes
    larger or smaller: bicubic, with antialiasing. As timm's `resample_abs_pos_embed`.
    """
    count, width = old[0] * old[1], positions.shape[2]
    leading, image = positions.float().split([positions.shape[1] - count, count], 1)
    image = image.view(1, *old, width).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=new, mode="bicubic", antialias=True)
    return torch.cat([leading, resized.permute(0, 2, 3, 1).reshape(1, -1, width)], 1)


def resample_bias_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Biases by relative position, float (rows, heads), for windows of `old` tokens -> float32, for those of `new`.

    rows: (2 h - 1)(2 w - 1). Linear along each axis, between positions that lie the farther apart the farther they are
    from 0, in a geometric progression that ends where the new table does: near neighbours keep their resolution. As
    timm's `resize_rel_pos_bias_table`, which has it from BEiT.
    """
    if old == new:
        return table
    rows, columns = (_interpolation(2 * a - 1, 2 * b - 1) for a, b in zip(old, new, strict=True))
    biases = table.double().view(2 * old[0] - 1, 2 * old[1] - 1, -1)
    return torch.einsum("ih,jw,hwc->ijc", rows, columns, biases).flatten(0, 1).float()


def _interpolation(source: int, target: int) -> Tensor:
    """float64 (target, source): weights of the old positions for each new one; beyond the last it is the last."""
    positions = torch.tensor(_spread(source // 2, target // 2), dtype=torch.float64)
    wanted = torch.arange(-(target // 2), target // 2 + 1, dtype=torch.float64)
    if source == 1:
        return torch.ones(target, 1, dtype=torch.float64)
    right = torch.searchsorted(positions, wanted).clamp(1, source - 1)
    left = right - 1
    share = ((wanted - positions[left]) / (positions[right] - positions[left])).clamp(0, 1)
    weights = torch.zeros(target, source, dtype=torch.float64)
    each = torch.arange(target)
    weights[each, left] = 1 - share
    weights[each, right] += share
    return weights


def _spread(count: int, reach: int) -> list[float]:
    """Positions -p_count..-p_1, 0, p_1..p_count: p_n = 1 + q + ... + q^(n-1), q such that p_count is about `reach`."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    sums = [sum(ratio**i for i in range(n + 1)) for n in range(count)]
    return [-value for value in reversed(sums)] + [0.0] + sums
