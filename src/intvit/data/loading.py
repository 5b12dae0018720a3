"""Loaders for training, validation and calibration: config -> batches. No Lightning; timm only to augment photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from intvit.data.config import DataConfig, DataError
from intvit.data.plan import calibration_batches, training_batches, training_steps, validation_batches
from intvit.data.reader import ShardDataset
from intvit.data.shards import open_split
from intvit.data.transforms import eval_transform, train_transform


class ShardLoader:
    """Iterable of (uint8 (B, 3, H, W), int64 (B,)) batches with a length; `set_epoch` chooses the training order.

    `batches(epoch)` gives the positions of every batch. Each iteration starts its own workers, which therefore see the
    current epoch. A DataError raised in a worker arrives here as the one line that it was.
    """

    batch_sampler = None  # Lightning looks for one beside `sampler`

    def __init__(
        self, dataset: ShardDataset, batches: Callable[[int], Sequence[np.ndarray]], length: int, workers: int
    ) -> None:
        self._dataset = dataset
        self._batches = batches
        self._length = length
        self._workers = workers

    @property
    def sampler(self) -> ShardLoader:
        """Itself: Lightning calls `loader.sampler.set_epoch(epoch)` before every training epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Order and random transforms of the next iteration."""
        self._dataset.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = DataLoader(
            self._dataset,
            batch_sampler=[batch.tolist() for batch in self._batches(self._dataset.epoch)],
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the workers' seeds would be drawn from the training's generator
        )
        batches = iter(loader)
        try:
            yield from batches
        except DataError as error:
            # A worker's error comes with its traceback as text, "...DataError: message" as the last line.
            raise DataError(str(error).rstrip().splitlines()[-1].rpartition("DataError: ")[2]) from None
        finally:
            # Left to the garbage collector, an unfinished iterator may be collected inside the forked workers of the
            # next one, where it closes pipes that are not its own.
            if isinstance(batches, _MultiProcessingDataLoaderIter):
                batches._shutdown_workers()


def train_loader(config: DataConfig, *, rank: int = 0, world_size: int = 1) -> ShardLoader:
    """Shuffled training batches of one rank with random transforms; every rank gets as many full batches."""
    index = open_split(config, "train")
    steps = training_steps(len(index), config.batch_size, world_size)
    if not steps:
        raise DataError(
            f"{index.paths[0].parent}: {len(index)} training images are less than one batch on each of {world_size} "
            f"ranks; lower data.batch_size={config.batch_size}"
        )

    def batches(epoch: int) -> Sequence[np.ndarray]:
        order = {"seed": config.seed, "epoch": epoch, "buffer": config.shuffle_buffer}
        return list(training_batches(index.counts, config.batch_size, rank=rank, world_size=world_size, **order))

    dataset = ShardDataset(index, train_transform(config), seed=config.seed)
    return ShardLoader(dataset, batches, steps, config.worker_count())


def validation_loader(config: DataConfig, *, rank: int = 0, world_size: int = 1) -> ShardLoader:
    """Validation batches of one rank in a fixed order: over all ranks every image exactly once, no padding."""
    index = open_split(config, "val")
    batches = validation_batches(len(index), config.eval_batch_size, rank=rank, world_size=world_size)
    return ShardLoader(
        ShardDataset(index, eval_transform(config)), lambda epoch: batches, len(batches), config.worker_count()
    )


def calibration_loader(config: DataConfig, *, rank: int = 0, world_size: int = 1) -> ShardLoader:
    """Training images under the evaluation transform, in a fixed order that soon has touched all shards and classes."""
    index = open_split(config, "train")
    batches = calibration_batches(len(index), config.eval_batch_size, rank=rank, world_size=world_size)
    return ShardLoader(
        ShardDataset(index, eval_transform(config)), lambda epoch: batches, len(batches), config.worker_count()
    )


def _collate(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)
