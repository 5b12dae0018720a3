"""Random integers with many at the ends of their range, where widths break."""

import torch
from torch import Tensor


def draw(seed: int, low: int, high: int, *shape: int) -> Tensor:
    """int64 of low..high, a third of the entries at either end; limits within int64."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high, shape, generator=generator) if high > low else torch.full(shape, low)
    ends = torch.randint(0, 6, shape, generator=generator)
    return values.masked_fill(ends == 0, low).masked_fill(ends == 1, high)
