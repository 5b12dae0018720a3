"""Which samples make up which batch: pure functions of sizes, seed, epoch, rank and world size. Nothing is read here.

Worker processes don't appear: a loader hands batch after batch to its workers and returns them in this order, so that
their number changes no result.
"""

from __future__ import annotations

import math

import numpy as np

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def training_steps(samples: int, batch_size: int, world_size: int) -> int:
    """Full batches that every rank gets in one epoch."""
    return samples // (batch_size * world_size)


def training_batches(
    counts: np.ndarray, batch_size: int, *, seed: int, epoch: int, buffer: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Positions of one rank's training batches in one epoch, int64 (steps, batch_size).

    Shards (`counts`: samples of each) are shuffled, then every sample moves back by a random number of places below
    `buffer`, around the end where need be: only the shards of one buffer are being read at a time, they follow each
    other one by one, and a buffer that holds all samples shuffles them evenly. Every sample comes at most once over all
    ranks; less than one batch per rank, others in every epoch, is left out. The ranks' batches of one step are
    neighbours: while ranks times batch size stays, so do the samples of every step.
    """
    random = np.random.RandomState([seed, epoch])  # its stream is frozen, unlike that of numpy's newer generators
    starts = np.cumsum(counts) - counts
    order = np.concatenate([np.arange(counts[i]) + starts[i] for i in random.permutation(len(counts))])
    places = np.arange(len(order)) + random.uniform(0, min(buffer, len(order)), len(order))
    order = order[np.argsort(places % len(order), kind="stable")]
    steps = training_steps(len(order), batch_size, world_size)
    return order[: steps * world_size * batch_size].reshape(steps, world_size, batch_size)[:, rank]


def validation_batches(samples: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """Positions of one rank's validation batches: every sample once over all ranks, in order, without padding.

    The last batch may be smaller, and ranks may differ by one sample.
    """
    begin, end = samples * rank // world_size, samples * (rank + 1) // world_size
    return [np.arange(first, min(first + batch_size, end)) for first in range(begin, end, batch_size)]


def calibration_order(counts: np.ndarray) -> np.ndarray:
    """Positions of all samples in a fixed order whose beginning is spread out, int64.

    `counts`: samples of each group of neighbours. Groups come one after the other, spread, and so do the samples of a
    group: the first n of them, for any n, lie almost evenly over the group, and therefore, where it is a whole split
    sorted by class, over all shards and classes.
    """
    starts = np.cumsum(counts) - counts
    return np.concatenate([starts[group] + _spread(int(counts[group])) for group in _spread(len(counts))])


def calibration_batches(images: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[np.ndarray]:
    """Numbers of one rank's images of calibration: the ranks share every batch of `batch_size`."""
    batches = [
        np.arange(first, min(first + batch_size, images))[rank::world_size] for first in range(0, images, batch_size)
    ]
    return [batch for batch in batches if len(batch)]


def _spread(length: int) -> np.ndarray:
    """0..length-1 in the order k * step mod length with a step near the golden ratio."""
    step = round(length * GOLDEN_RATIO)
    while math.gcd(step, length) > 1:
        step += 1
    return np.arange(length) * step % max(1, length)
