"""Read one sample by its position: bytes from the shard, decoding, transform. Orders and batches live in `batches`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from intvit.data.config import DataError
from intvit.data.shards import Samples
from intvit.data.tars import BadSample
from intvit.data.transforms import Transform
from intvit.photos import BrokenImage


class ShardDataset(Dataset[Any]):
    """Map-style dataset over an index: position -> (uint8 image (3, H, W), label).

    With a `seed` the transform may draw from `random`, `numpy.random` and torch: all three are seeded from (seed,
    epoch, position), so that a sample's random changes depend neither on workers nor ranks nor on what was read before.
    A broken image raises DataError naming shard and key, or with `skip` comes back as BadSample.
    """

    def __init__(self, index: Samples, transform: Transform, seed: int | None = None, skip: bool = False) -> None:
        self.index = index
        self.transform = transform
        self.seed = seed
        self.skip = skip
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int] | BadSample:
        index = self.index
        try:
            data = index.read(position)
            if self.seed is None:
                image = self.transform(data)
            else:
                with seeded(f"{self.seed}/{self.epoch}/{position}"):
                    image = self.transform(data)
        except (BrokenImage, OSError) as error:
            bad = index.bad_sample(position, f"broken image ({error})")
            if self.skip:
                return bad
            raise DataError(f"{bad}; mend or remove it, or say data.on_bad_sample=skip") from error
        return image, int(index.labels[position])


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed `random`, `numpy.random` and torch's CPU generator from `key`; afterwards they go on as if untouched.

    But not in a loader's worker, where nobody else draws from them.
    """
    in_worker = get_worker_info() is not None
    states = None if in_worker else (random.getstate(), np.random.get_state(), torch.default_generator.get_state())
    random.seed(key)  # through SHA-512: similar keys give unrelated streams
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))  # torch.manual_seed would reach for accelerators too
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.default_generator.set_state(states[2])
