"""Which tokens of Swin share a window: cyclic shifts, padding and relative positions as gathers of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Windows:
    """Which tokens share a window: `order` lists them window by window (-1: padding), `back` puts them in place again.

    grid: rows and columns of the tokens. size: of a window, on each axis no larger than the grid; count: number of
    windows; excluded: bool (count, N, N) or None, pairs of tokens that a cyclic shift brought into one window from
    opposite sides of the image. As in timm, an axis that one window covers is not shifted, the sides are those of the
    padded image, and padding is attended to.
    """

    def __init__(self, grid: tuple[int, int], window: int, *, shifted: bool) -> None:
        self.size = (min(window, grid[0]), min(window, grid[1]))
        rows, columns = (window // 2 if shifted and side > window else 0 for side in grid)
        filled = padded(numbered(grid).roll((-rows, -columns), (0, 1)), self.size)
        order = self._partition(filled)
        self.order, self.count = order.reshape(-1), order.shape[0]
        positions = torch.empty(grid[0] * grid[1], dtype=torch.int64)
        kept = self.order >= 0
        positions[self.order[kept]] = kept.nonzero().view(-1)
        self.back = positions
        self.excluded = self._excluded((rows, columns), filled) if rows or columns else None

    def _partition(self, tokens: Tensor) -> Tensor:
        """(H, W) -> (windows, tokens of one)."""
        height, width = self.size
        rows, columns = tokens.shape[0] // height, tokens.shape[1] // width
        return tokens.view(rows, height, columns, width).transpose(1, 2).reshape(rows * columns, -1)

    def _excluded(self, shifts: tuple[int, int], filled: Tensor) -> Tensor:
        bands = []
        for side, window, shift in zip(filled.shape, self.size, shifts, strict=True):
            band = torch.zeros(side, dtype=torch.int64)  # along each axis: untouched, beside the seam, beyond it
            if shift:
                band[side - window :] = 1
                band[side - shift :] = 2
            bands.append(band)
        region = self._partition(3 * bands[0][:, None] + bands[1])
        return region[:, :, None] != region[:, None, :]

    def relative_positions(self) -> Tensor:
        """Row of the bias table, ((2 h - 1) (2 w - 1), heads), for every pair of tokens of a window, int64 (N, N)."""
        height, width = self.size
        y, x = (c.reshape(-1) for c in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        rows, columns = y[:, None] - y[None, :] + height - 1, x[:, None] - x[None, :] + width - 1
        return rows * (2 * width - 1) + columns


def numbered(grid: tuple[int, int]) -> Tensor:
    """Tokens of a grid in row-major order, int64 (H, W)."""
    return torch.arange(grid[0] * grid[1]).view(grid)


def padded(tokens: Tensor, multiples: tuple[int, int]) -> Tensor:
    """(H, W) with -1 appended until both sides are multiples."""
    down, right = (-side % multiple for side, multiple in zip(tokens.shape, multiples, strict=True))
    return nn.functional.pad(tokens, (0, right, 0, down), value=-1)
