"""Statistics of real values and the clip limits drawn from them: min-max, percentile, smallest squared error.

Calibration collects a histogram of |x|, finds the clip limit, and keeps it as a ratio to a cheap statistic (the
largest |x| of a batch, or its mean over images). Training then follows that statistic by an exponential mean, so
that every method costs one maximum per step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intvit.arithmetic import divide

BINS = 4096  # at least 16 bins per 8-bit step after a doubling of the range
_AT_ONCE = 1 << 17  # values, so that a CPU's copies of them stay in its second-level cache


class Histogram:
    """Counts of |x| in BINS equal bins whose width is a power of two, doubled (pairs merged) as the range grows."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.exponent: int | None = None  # bin width = 2^exponent

    def add(self, values: Tensor, largest: float) -> None:
        """Count |x| of values of any shape; largest: of them."""
        if largest == 0.0:
            self.counts[0] += values.numel()
            return
        needed = torch.tensor(largest / BINS, dtype=torch.float64).frexp().exponent.item()
        if self.exponent is None:
            self.exponent = int(needed)
        while self.exponent < needed:
            self._double()
        flat = values.flatten()
        for part in flat.split(_AT_ONCE if flat.device.type == "cpu" else len(flat)):
            index = (part.abs() * 2.0**-self.exponent).short().clamp_(max=BINS - 1)  # the last bin may end at BINS
            self.counts += torch.bincount(index, minlength=BINS).cpu().double()

    def _double(self) -> None:
        assert self.exponent is not None
        merged = self.counts.view(-1, 2).sum(1)
        self.counts = torch.cat((merged, torch.zeros_like(merged)))
        self.exponent += 1

    def reduce(self) -> None:
        """Sum over the ranks of a distributed run."""
        if world_size() == 1:
            return
        largest = torch.tensor(-(10**6) if self.exponent is None else self.exponent)
        largest = all_reduce(largest, "max")
        if self.exponent is None:
            self.exponent = int(largest) if int(largest) > -(10**6) else None
        while self.exponent is not None and self.exponent < int(largest):
            self._double()
        self.counts = all_reduce(self.counts, "sum")

    def centers(self) -> Tensor:
        """Middle of every bin, float64 (BINS,)."""
        width = 2.0 ** (self.exponent if self.exponent is not None else 0)
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * width


def mse_limit(histogram: Histogram, bits: int) -> float:
    """Clip limit with the smallest squared error of rounding to signed `bits`, searched in 128 steps to the maximum."""
    used = int(histogram.counts.nonzero().max()) + 1
    values, counts = histogram.centers()[:used], histogram.counts[:used]
    steps = 2 ** (bits - 1) - 1
    limits = float(values[-1]) * torch.linspace(1 / 128, 1.0, 128, dtype=torch.float64)
    scale = divide(limits, steps)[:, None]
    error = torch.round(values / scale).clamp_(max=steps).mul_(scale).sub_(values).square_()
    return float(limits[(error @ counts).argmin()])


def percentile_limit(histogram: Histogram, percentile: float) -> float:
    """Smallest bin edge below which `percentile` percent of the values lie."""
    share = histogram.counts.cumsum(0) / histogram.counts.sum()
    index = int(torch.searchsorted(share, torch.tensor(percentile / 100.0, dtype=torch.float64)))
    width = float(histogram.centers()[0]) * 2
    return (min(index, BINS - 1) + 1) * width


def weight_clip(weight: Tensor, bits: int, importance: Tensor | None = None) -> Tensor:
    """Per output channel the share of the largest |w| that minimizes the squared rounding error.

    weight: float (N, K). importance: of each column's error, (K,); None for all alike. Returns float32 (N,) in
    [0.4, 1].
    """
    steps = 2 ** (bits - 1) - 1
    largest = weight.abs().amax(1, keepdim=True).clamp(min=1e-30)
    best = torch.full((weight.shape[0],), torch.inf, device=weight.device)
    clip = torch.ones_like(best)
    for share in torch.linspace(1.0, 0.4, 61).tolist():
        scale = largest * (share / steps)
        error = (weight / scale).round_().clamp_(-steps - 1, steps).mul_(scale).sub_(weight).square_()
        error = (error if importance is None else error.mul_(importance)).sum(1)
        better = error < best
        best, clip = torch.where(better, error, best), torch.where(better, share, clip)
    return clip


def world_size() -> int:
    """How many ranks run."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


def broadcast(value: Tensor) -> None:
    """Overwrite with the first rank's; nothing to do for one rank."""
    if world_size() > 1:
        sent = value.to("cuda" if torch.distributed.get_backend() == "nccl" else value.device)
        torch.distributed.broadcast(sent, 0)
        value.copy_(sent)


def all_gather(value: Tensor) -> Tensor:
    """The (n,) of every rank, in their order: (ranks, n)."""
    if world_size() == 1:
        return value[None]
    sent = value.to("cuda" if torch.distributed.get_backend() == "nccl" else value.device)
    gathered = [torch.empty_like(sent) for _ in range(world_size())]
    torch.distributed.all_gather(gathered, sent)
    return torch.stack(gathered).to(value.device)


def all_reduce(value: Tensor, how: str) -> Tensor:
    """`max`, `sum` or `mean` over all ranks; the value itself when there is one rank."""
    if world_size() == 1:
        return value
    device = "cuda" if torch.distributed.get_backend() == "nccl" else value.device
    result = value.to(device, copy=True)
    operation = torch.distributed.ReduceOp.MAX if how == "max" else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(result, operation)
    if how == "mean":
        result = divide(result, world_size())
    return result.to(value.device)
