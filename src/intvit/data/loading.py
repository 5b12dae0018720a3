"""Loaders for training, validation and calibration: config -> batches. No Lightning; timm only to augment photos."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from intvit.data.batches import (
    calibration_batches,
    calibration_order,
    training_batches,
    training_steps,
    validation_batches,
)
from intvit.data.calibration_photos import CalibrationPhotos, photo_places
from intvit.data.config import DataConfig, DataError
from intvit.data.masks import MaskDataset, MaskTarget
from intvit.data.reader import ShardDataset
from intvit.data.shards import Samples, ShardIndex, open_split
from intvit.data.tars import BadSample
from intvit.data.transforms import eval_transform, train_transform

log = logging.getLogger(__name__)

Batches = Sequence[np.ndarray] | np.ndarray  # positions, batch after batch
SHOWN = 3  # bad samples that the end of an epoch names


class ShardLoader:
    """Iterable of (images uint8 (B, 3, H, W), labels) batches with a length; `set_epoch` chooses the training order.

    Labels are int64 (B,); of masks they are int16 (B, H, W) to train on, and a list of B `MaskTarget` to evaluate.

    `batches(epoch)` gives the positions of every batch. Each iteration starts its own workers, which therefore see the
    current epoch. A DataError raised in a worker arrives here as the one line that it was.

    Bad samples that the dataset skips are missing from their batch, so that no sample comes twice and every rank has as
    many batches as before; `bad` holds those of the current or last iteration.

    `state_dict` says which batch comes next. A loader of the same data that loads it goes on there, whatever its number
    of workers; `identity` is what has to be equal for that, by name.
    """

    batch_sampler = None  # Lightning looks for one beside `sampler`

    def __init__(
        self,
        dataset: ShardDataset | MaskDataset | CalibrationPhotos,
        batches: Callable[[int], Batches],
        length: int,
        config: DataConfig,
        identity: Mapping[str, Any],
    ) -> None:
        self.bad: list[BadSample] = []
        self._dataset = dataset
        self._batches = batches
        self._length = length
        self._config = config
        self._identity = dict(identity)
        self._delivered = 0
        self._resume: tuple[int, int] | None = None  # epoch and batch that the next iteration of that epoch begins with

    @property
    def samples(self) -> int:
        """Good samples of the split, over all ranks."""
        return len(self._dataset.index)

    @property
    def skipped(self) -> int:
        """Bad samples of the split that the current or last iteration went without."""
        return len(self._dataset.index.bad) + len(self.bad)

    @property
    def sampler(self) -> ShardLoader:
        """Itself: Lightning calls `loader.sampler.set_epoch(epoch)` before every training epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Order and random transforms of the next iteration."""
        if epoch != self._dataset.epoch:
            self._dataset.epoch, self._delivered = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the epoch, how many of its batches were handed out, and what they are batches of."""
        return {"epoch": self._dataset.epoch, "batches": self._delivered, **self._identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the batches of `state`. Raises DataError where it belongs to another order of samples."""
        for key, value in self._identity.items():
            if state[key] != value:
                raise DataError(f"ckpt: saved with {key} {state[key]}, now {value}; {_REMEDIES[key]}")
        self._resume = int(state["epoch"]), int(state["batches"])
        self._dataset.epoch, self._delivered = self._resume

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        epoch, self._delivered = self._dataset.epoch, 0
        if self._resume is not None and self._resume[0] == epoch:
            self._delivered = self._resume[1]
        self._resume, self.bad = None, []
        loader = DataLoader(
            self._dataset,
            batch_sampler=_Positions(self._batches(epoch), self._delivered),
            num_workers=self._config.worker_count(),
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the workers' seeds would be drawn from the training's generator
            worker_init_fn=_hold_signals,
        )
        with _signals_held():
            batches = iter(loader)
        try:
            for images, labels, bad in batches:
                self._count(bad)
                self._delivered += 1
                yield images, labels
        except DataError as error:
            # A worker's error comes with its traceback as text, "...DataError: message" as the last line.
            raise DataError(str(error).rstrip().splitlines()[-1].rpartition("DataError: ")[2]) from None
        finally:
            # Left to the garbage collector, an unfinished iterator may be collected inside the forked workers of the
            # next one, where it closes pipes that are not its own.
            if isinstance(batches, _MultiProcessingDataLoaderIter):
                batches._shutdown_workers()
            if self.bad:
                named = "; ".join(map(str, self.bad[:SHOWN]))
                log.warning("epoch %d: %d bad samples skipped on this rank: %s", epoch, len(self.bad), named)

    def _count(self, bad: list[BadSample]) -> None:
        self.bad += bad
        if len(self.bad) > self._config.bad_sample_budget:
            raise DataError(
                f"{self.bad[0]} (the first of {len(self.bad)} bad samples, more than "
                f"data.bad_sample_budget={self._config.bad_sample_budget})"
            )


_REMEDIES = {
    "samples": "the shards have changed since: give the old ones back, or start over with fresh=true",
    "order": "give data.seed and data.shuffle_buffer their old values, or start over with fresh=true",
    "samples_per_step": "as many on all ranks together are needed: choose data.batch_size = that / number of ranks",
}


def train_loader(config: DataConfig, *, rank: int = 0, world_size: int = 1, same_order: bool = False) -> ShardLoader:
    """Shuffled training batches of one rank with random transforms; every rank gets as many full batches.

    same_order: every epoch has the batches of the first.
    """
    index = open_split(config, "train")
    steps = training_steps(len(index), config.batch_size, world_size)
    if not steps:
        raise DataError(
            f"{index.source.root}: {len(index)} training images are less than one batch on each of {world_size} "
            f"ranks; lower data.batch_size={config.batch_size}"
        )

    def batches(epoch: int) -> np.ndarray:
        order = {"seed": config.seed, "epoch": 0 if same_order else epoch, "buffer": config.shuffle_buffer}
        return training_batches(index.counts, config.batch_size, rank=rank, world_size=world_size, **order)

    identity = {
        "samples": index.fingerprint(),
        "order": f"{config.seed}/{config.shuffle_buffer}",
        "samples_per_step": config.batch_size * world_size,
    }
    return ShardLoader(_changed(config, index), batches, steps, config, identity)


def validation_loader(config: DataConfig, *, rank: int = 0, world_size: int = 1) -> ShardLoader:
    """Validation batches of one rank in a fixed order: over all ranks every image exactly once, no padding."""
    index = open_split(config, "val")
    batches = validation_batches(len(index), config.eval_batch_size, rank=rank, world_size=world_size)
    if config.labels == "masks":
        return ShardLoader(MaskDataset(config, _shards(index)), lambda epoch: batches, len(batches), config, {})
    dataset = ShardDataset(index, eval_transform(config), skip=config.on_bad_sample == "skip")
    return ShardLoader(dataset, lambda epoch: batches, len(batches), config, {})


def _changed(config: DataConfig, index: Samples) -> ShardDataset | MaskDataset:
    """The samples under the random transform of training."""
    if config.labels == "masks":
        return MaskDataset(config, _shards(index), config.seed)
    return ShardDataset(index, train_transform(config), config.seed, config.on_bad_sample == "skip")


def _shards(index: Samples) -> ShardIndex:
    assert isinstance(index, ShardIndex)  # data.labels=masks refuses a tree
    return index


def calibration_loader(
    config: DataConfig, images: int | None = None, *, rank: int = 0, world_size: int = 1
) -> ShardLoader:
    """Images of training photos as data.calibration_photos makes them, in an order that soon has touched all classes.

    `images`: only so many, shared by the ranks. Of shards that `intvit shards create` has shuffled a few suffice, and
    remote ones are not all fetched.
    """
    index = open_split(config, "train")
    order = _order(index)
    count = len(order) if images is None else min(images, len(order))
    batches = calibration_batches(count, config.eval_batch_size, rank=rank, world_size=world_size)
    return ShardLoader(CalibrationPhotos(config, index, order), lambda epoch: batches, len(batches), config, {})


def calibration_labels(config: DataConfig, images: int | None = None) -> np.ndarray:
    """The labels of all photos in the images of `calibration_loader`, int64 (N,). No photo is read."""
    index = open_split(config, "train")
    return index.labels[_order(index)[: photo_count(config, len(index) if images is None else images)]]


def photo_count(config: DataConfig, images: int) -> int:
    """How many photos so many images of `calibration_loader` are made of, the first of the order."""
    return photo_places(config.calibration_photos, images).start


def augmented_loader(config: DataConfig, images: int) -> ShardLoader:
    """The first photos of calibration's order under the random transform of training, alike at every call."""
    index = open_split(config, "train")
    order = _order(index)[:images]
    batches = [order[batch] for batch in calibration_batches(len(order), config.eval_batch_size)]
    return ShardLoader(_changed(config, index), lambda epoch: batches, len(batches), config, {})


def _order(index: Samples) -> np.ndarray:
    """Of calibration: positions of all photos of the split."""
    return calibration_order(index.counts if index.shuffled else np.array([len(index)]))


# What schedulers send to all processes of a job; what it means is for the one that starts the workers.
_OF_JOBS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Workers started inside never get the signals of a job; this process hears afterwards what came meanwhile.

    Forked and spawned workers inherit the mask, so that no moment is left at which a signal could end them.
    """
    if multiprocessing.get_start_method() == "forkserver":
        forkserver.ensure_running()  # started inside, it would keep the mask, also for processes of others
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_JOBS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _hold_signals(worker: int) -> None:
    """In a worker: those of a fork server inherit no mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _OF_JOBS)


class _Positions:
    """Batches from number `first` on, as the lists that DataLoader wants, made one at a time."""

    def __init__(self, batches: Batches, first: int) -> None:
        self._batches, self._first = batches, first

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._first, len(self._batches)):
            yield self._batches[number].tolist()

    def __len__(self) -> int:
        return len(self._batches) - self._first


def _collate(samples: list[Any]) -> tuple[Tensor, Any, list[BadSample]]:
    """Samples are BadSample, (image, label), or lists of (image, mask)."""
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    good = [sample for sample in samples if not isinstance(sample, BadSample)]
    if not good:
        raise DataError(f"{bad[0]} (and every other sample of a batch)")
    pairs = itertools.chain.from_iterable(good) if isinstance(good[0], list) else good
    images, labels = zip(*pairs, strict=True)
    if isinstance(labels[0], MaskTarget):
        return torch.stack(images), list(labels), bad
    if isinstance(labels[0], Tensor):
        return torch.stack(images), torch.stack(labels), bad
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64), bad


def first_images(loader: Iterable[tuple[Tensor, Any]], count: int | None) -> tuple[Tensor, Tensor]:
    """The first `count` (None: all) images of a loader: uint8 (N, C, H, W), and their labels, int64 (N,).

    Of masks int16 (N, H, W): the labels at the pixels of the images, VOID where they do not answer for them.
    """
    images, labels, seen = [], [], 0
    for batch, target in loader:
        images.append(batch)
        masks = isinstance(target, list)
        labels.append(torch.stack([each.at_size(batch.shape[2:]) for each in target]) if masks else target)
        seen += len(batch)
        if count is not None and seen >= count:
            break
    return torch.cat(images)[:count], torch.cat(labels)[:count]
