"""Read one sample by its position: bytes from the shard, decoding, transform. Orders and batches live in `plan`."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from intvit.data.config import DataError
from intvit.data.shards import ShardIndex
from intvit.data.transforms import decode

OPEN_SHARDS = 32  # opening a shard for each image would burden the metadata server of a cluster's file system


class ShardDataset(Dataset):
    """Map-style dataset over an index: position -> (uint8 image (3, H, W), label).

    `transform` turns an RGB picture into the tensor. With a `seed` it may draw from `random`, `numpy.random` and torch:
    all three are seeded from (seed, epoch, position), so that a sample's random changes depend neither on workers nor
    ranks nor on what was read before. A broken image raises DataError naming shard and key.
    """

    def __init__(
        self, index: ShardIndex, transform: Callable[[Image.Image], torch.Tensor], seed: int | None = None
    ) -> None:
        self.index = index
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        try:
            picture = decode(self._read(position))
        except Exception as error:  # Pillow's decoders raise nearly every type on broken bytes
            reason = " ".join(str(error).split())
            raise DataError(f"{self.index.describe(position)}: broken image ({reason}); mend or remove it") from error
        if self.seed is None:
            image = self.transform(picture)
        else:
            with seeded(f"{self.seed}/{self.epoch}/{position}"):
                image = self.transform(picture)
        return image, int(self.index.labels[position])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _read(self, position: int) -> bytes:
        path, _ = self.index.locate(position)
        if path not in self._files:
            if len(self._files) == OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
            self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115, it stays open
        self._files.move_to_end(path)
        size = int(self.index.sizes[position])
        # pread, not seek and read: forked workers share the file's position
        data = os.pread(self._files[path].fileno(), size, int(self.index.offsets[position]))
        if len(data) < size:
            raise OSError("the shard has become shorter")
        return data


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed `random`, `numpy.random` and torch's CPU generator from `key`; afterwards they go on as if untouched."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(key)  # through SHA-512: similar keys give unrelated streams
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))  # torch.manual_seed would reach for accelerators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
